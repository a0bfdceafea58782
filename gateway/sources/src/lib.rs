//! Where a cluster's own services come from: a directory of Kubernetes manifests, read live.
//!
//! The way of a change, and the order to read the files in:
//!
//! 1. `watch`: the shell. inotify says that something changed; [`FileSource`] publishes what came of it.
//! 2. `scan`, over `walk`: which files there are, which of them are new, and what they contain, all bounded.
//! 3. `document`: the bytes of one file become objects with line numbers, each document for itself.
//! 4. `object`: what a Service, EndpointSlice or ServiceExport must look like to be taken.
//! 5. `index`: which objects hold, given what every file says now and said before.
//! 6. `catalog`: the objects joined into the [`LocalCatalog`](isthmus_model::catalog::LocalCatalog).
//!
//! Steps 3 to 6 are pure. Another source of the same objects starts at step 4.
//!
//! # What is read
//!
//! Every `.yaml`, `.yml` and `.json` file below the directory, in any number of YAML documents, `kind: List`
//! included: `v1` Service, `discovery.k8s.io/v1` EndpointSlice, and `multicluster.x-k8s.io` ServiceExport
//! (`v1alpha1` and `v1beta1`); for routes and the gateway's edges `gateway.networking.k8s.io` HTTPRoute and
//! `networking.istio.io` ServiceEntry. Other kinds of plain Kubernetes (Deployment, Namespace, ...) are passed over in
//! silence, so that a directory of an application's manifests can be used as it is; a kind that is neither is
//! reported. What a pod would tell stands on its EndpointSlice:
//!
//! | annotation | meaning |
//! | --- | --- |
//! | `isthmus.dev/sidecar-port: "15006"` | the endpoints have a sidecar, whose inbound listener is on this port; absent: no sidecar |
//! | `isthmus.dev/service-account: reviews` | the service account that the endpoints run as; absent: `default` |
//!
//! # What broken input does
//!
//! It becomes a [`Problem`] with file, line and reason, and the last good state of the object stays.
//! A withdrawal is only ever the clean absence of an object: its file deleted, or its document gone from a
//! file that is whole.
//!
//! Deliberately absent: selectors and pods (whoever writes the files writes the EndpointSlices), FQDN
//! endpoints, and ports that are not TCP.

mod catalog;
mod document;
mod index;
mod object;
mod problem;
mod scan;
mod walk;
mod watch;

pub use object::{Kind, ObjectKey, SERVICE_ACCOUNT_ANNOTATION, SIDECAR_PORT_ANNOTATION};
pub use object::{OPAQUE_PORTS, OWN_LISTENERS_MAX, OwnListeners, Rules};
pub use problem::{PROBLEMS_MAX, Problem, Severity};
pub use watch::{FileSource, SourceError, SourceState};
