//! The two calls of the X.509 profile, answered from the feed.

use std::pin::Pin;
use std::sync::Arc;

use isthmus_identity::ExportedSvid;
use isthmus_wire::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use isthmus_wire::workload::{X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::bundles::Bundles;
use super::feed::{Feed, Material};

type Answers<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// Answers calls that were admitted. A stream holds no more than its last message: who reads slowly misses
/// what was between, not what is now.
#[derive(Clone, Debug)]
pub(super) struct Service(pub(super) Arc<Feed>);

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let materials = self.served(|material| svid_response(material).is_some())?;
        Ok(Response::new(Box::pin(materials.map(|material| svid_response(&material).ok_or_else(|| over(&material))))))
    }

    async fn fetch_x509_bundles(
        &self,
        _request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let materials = self.served(|material| bundles_response(material).is_some())?;
        // A new certificate is no news here.
        let mut told: Option<Arc<Bundles>> = None;
        let news = move |material: &Material| {
            material.stopping || std::mem::replace(&mut told, material.bundles.clone()) != material.bundles
        };
        let materials = materials.filter(news);
        Ok(Response::new(Box::pin(
            materials.map(|material| bundles_response(&material).ok_or_else(|| over(&material))),
        )))
    }
}

impl Service {
    /// What is served, from now on: the first at once. A call that cannot be answered yet is refused, for the client
    /// to come again.
    fn served(&self, suffices: impl FnOnce(&Material) -> bool) -> Result<WatchStream<Material>, Status> {
        let served: watch::Receiver<Material> = self.0.subscribe();
        if suffices(&served.borrow()) {
            return Ok(WatchStream::new(served));
        }
        Err(Status::unavailable(format!("no identity yet: {}", self.0.problem())))
    }
}

/// Why a stream ends that was served before.
fn over(material: &Material) -> Status {
    Status::unavailable(if material.stopping { "the sidecar is stopping" } else { "the certificate has run out" })
}

fn svid_response(material: &Material) -> Option<X509svidResponse> {
    let bundles = material.bundles.as_deref()?;
    let svid = svid(material.svid.as_ref()?, bundles.own()?);
    Some(X509svidResponse { svids: vec![svid], crl: Vec::new(), federated_bundles: bundles.federated() })
}

fn svid(svid: &ExportedSvid, bundle: &[u8]) -> X509svid {
    X509svid {
        spiffe_id: svid.id().to_string(),
        x509_svid: svid.chain().flatten().copied().collect(),
        x509_svid_key: svid.private_key().to_vec(),
        bundle: bundle.to_vec(),
        hint: String::new(),
    }
}

fn bundles_response(material: &Material) -> Option<X509BundlesResponse> {
    let bundles = material.bundles.as_deref()?;
    // The standard wants the own one among them.
    bundles.own()?;
    Some(X509BundlesResponse { crl: Vec::new(), bundles: bundles.all() })
}
