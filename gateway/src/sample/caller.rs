//! Who called, as the sidecar says.

use http::HeaderMap;

/// The header in which Envoy and its kin tell an application who called (XFCC).
const HEADER: &str = "x-forwarded-client-cert";

/// The caller's SPIFFE ID: the `URI` of the last element, the one that the nearest proxy added.
pub(super) fn identity(headers: &HeaderMap) -> Option<String> {
    let element = headers.get(HEADER)?.to_str().ok()?.rsplit(',').next()?;
    let uri = element.split(';').find_map(|pair| pair.trim().strip_prefix("URI="))?;
    let uri = uri.trim_matches('"');
    uri.starts_with("spiffe://").then(|| uri.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_proxy_is_believed() {
        let identity_in = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, value.parse().expect("valid"));
            identity(&headers)
        };
        let reviews = "spiffe://us-east.acme.mesh/ns/shop/sa/reviews";
        assert_eq!(identity_in(&format!("By=x;Hash=00;URI={reviews}")).as_deref(), Some(reviews));
        assert_eq!(identity_in(&format!("URI=spiffe://evil/x,URI=\"{reviews}\"")).as_deref(), Some(reviews));
        assert_eq!(identity_in("Hash=00"), None);
        assert_eq!(identity(&HeaderMap::new()), None);
    }
}
