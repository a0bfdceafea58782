//! Which calls are served: pure.

use tonic::{Request, Status};

use crate::unix_socket::Caller;

/// What every SPIFFE client sends with every call (Workload Endpoint §3): a request that was forged through
/// somebody else's HTTP client does not have it.
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// Lets a call through, or says what the standard has for it.
pub(super) fn admit(request: Request<()>) -> Result<Request<()>, Status> {
    let mut values = request.metadata().get_all(SECURITY_HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => {}
        _ => return Err(Status::invalid_argument(format!("send the metadata {SECURITY_HEADER}: true, once"))),
    }
    match request.extensions().get() {
        Some(Caller { admitted: true, .. }) => Ok(request),
        // In these words: clients know them.
        _ => Err(Status::permission_denied("no identity issued")),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn verdict(values: &[&'static str], caller: Option<Caller>) -> Code {
        let mut request = Request::new(());
        for value in values {
            request.metadata_mut().append(SECURITY_HEADER, value.parse().expect("valid"));
        }
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        admit(request).map_or_else(|status| status.code(), |_| Code::Ok)
    }

    #[test]
    fn calls_need_the_header_and_an_admitted_caller() {
        let (ours, stranger) = (Some(Caller { uid: 1, admitted: true }), Some(Caller { uid: 2, admitted: false }));
        assert_eq!(verdict(&["true"], ours), Code::Ok);
        for forged in [&[][..], &["True"], &["1"], &[""], &["true", "true"], &["true", "false"]] {
            assert_eq!(verdict(forged, ours), Code::InvalidArgument, "{forged:?}");
        }
        assert_eq!(verdict(&[], stranger), Code::InvalidArgument, "the header is looked at first");
        assert_eq!(verdict(&["true"], stranger), Code::PermissionDenied);
        assert_eq!(verdict(&["true"], None), Code::PermissionDenied, "fail closed");
    }
}
