//! The objects that matter, checked one by one and reduced to what the catalog needs.
//!
//! Everything that can be wrong within one object is found here, before it replaces what is known: so an
//! invalid object never costs its last good state. What only shows between objects (an export without its
//! service) is the catalog's to report.

mod endpoint_slice;
pub(crate) mod http_route;
mod kinds;
mod service;
pub(crate) mod service_entry;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use isthmus_model::http_route::HttpRoute;
use isthmus_model::name::Label;
use isthmus_model::outside::OutsideHosts;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use endpoint_slice::{Readiness, SliceRecord};
pub use endpoint_slice::{SERVICE_ACCOUNT_ANNOTATION, SIDECAR_PORT_ANNOTATION};
pub use service::OPAQUE_PORTS;
pub(crate) use service::ServiceRecord;

/// The longest object name (an RFC 1123 subdomain).
const OBJECT_NAME_LEN_MAX: usize = 253;
/// Unknown fields that are reported of one object; more say nothing new.
const UNKNOWN_FIELDS_MAX: usize = 8;
/// The namespace of an object that names none, as with `kubectl apply`.
const DEFAULT_NAMESPACE: &str = "default";

/// The kinds of objects that make up a catalog, in the order in which the catalog needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `multicluster.x-k8s.io` ServiceExport (KEP-1645).
    ServiceExport,
    /// `gateway.networking.k8s.io` HTTPRoute.
    HttpRoute,
    /// `networking.istio.io` ServiceEntry.
    ServiceEntry,
}

/// What an object is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Label,
    /// Its name: an RFC 1123 subdomain.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// An object that passed all checks, reduced to what the catalog needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Service(ServiceRecord),
    EndpointSlice(SliceRecord),
    ServiceExport,
    HttpRoute(HttpRoute),
    ServiceEntry(OutsideHosts),
}

/// What a site allows in its manifests, and how it reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Whether endpoints may be on loopback addresses: where the whole cluster is on one machine.
    pub allow_loopback: bool,
    /// Where the gateway itself listens: no endpoint is there, or whoever writes manifests could have it call itself.
    pub own: OwnListeners,
    /// The name by which routes know the gateways that take requests from outside, if they do.
    pub ingress: Option<String>,
    /// Ports of services whose bytes are not looked at when the Service does not say what they are.
    pub opaque_ports: BTreeSet<u16>,
}

/// Where a gateway listens.
pub type OwnListeners = [Option<SocketAddr>; OWN_LISTENERS_MAX];
/// A gateway's listeners are seven, and one more is where others are told to find it.
pub const OWN_LISTENERS_MAX: usize = 8;

/// Something to tell about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remark {
    /// What is wrong and what to check.
    pub(crate) reason: String,
    /// A piece of the manifest's text that it is about, to find the line by.
    pub(crate) about: Option<String>,
}

impl Remark {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), about: None }
    }

    fn about(about: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), about: Some(about.into()) }
    }
}

/// What a manifest turns out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// One of the kinds of the catalog.
    Known(ObjectKey),
    /// `kind: List`: its items are the manifests.
    List,
    /// A kind of plain Kubernetes that says nothing about reachability.
    Unused,
    /// A kind that nothing here understands.
    Unknown(Remark),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: String,
    kind: String,
    metadata: Option<HeaderMetadata>,
}

#[derive(Deserialize, Default)]
struct HeaderMetadata {
    name: Option<String>,
    namespace: Option<String>,
}

/// Tells what a manifest is, by `apiVersion`, `kind` and `metadata` alone.
///
/// # Errors
/// When these are missing or malformed.
pub(crate) fn subject(manifest: &Value) -> Result<Subject, Remark> {
    if !manifest.is_object() {
        return Err(Remark::new(
            "this is not a Kubernetes object: expected a mapping with apiVersion, kind and metadata",
        ));
    }
    let header = Header::deserialize(manifest)
        .map_err(|error| Remark::new(format!("this is not a Kubernetes object: {error}")))?;
    let metadata = header.metadata.unwrap_or_default();
    let kind = match kinds::classify(&header.api_version, &header.kind) {
        kinds::Class::Catalog(kind) => kind,
        kinds::Class::List => return Ok(Subject::List),
        kinds::Class::Unused => return Ok(Subject::Unused),
        kinds::Class::WrongVersion(expected) => {
            let reason = format!("{} {} is not supported: use apiVersion {expected}", header.api_version, header.kind);
            return Err(Remark::about(header.api_version, reason));
        }
        // Whatever it is meant to be, it may have been good before: an error, so that this stays.
        kinds::Class::Misspelt => {
            let reason =
                format!("{} has no kind {}: check its spelling; is the file whole?", header.api_version, header.kind);
            return Err(Remark::about(header.kind, reason));
        }
        kinds::Class::Unknown => {
            let Header { api_version, kind, .. } = header;
            // No kind does without a name: this is rather the beginning of a file that was not written to its end.
            let Some(name) = metadata.name else {
                let reason = format!(
                    "kind {kind} ({api_version}) is not supported and metadata.name is missing: is the file whole?"
                );
                return Err(Remark::about(kind, reason));
            };
            let reason = format!(
                "kind {kind} ({api_version}) is not supported: {name} is not used; \
                 check the spelling of kind and apiVersion"
            );
            return Ok(Subject::Unknown(Remark::about(kind, reason)));
        }
    };
    let name = metadata.name.ok_or_else(|| Remark::about("metadata", "metadata.name is missing"))?;
    let namespace = metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let namespace = label("metadata.namespace", namespace)?;
    check_name(kind, &name)?;
    Ok(Subject::Known(ObjectKey { kind, namespace, name }))
}

/// Services share their name with DNS labels; the others may be subdomains.
fn check_name(kind: Kind, name: &str) -> Result<(), Remark> {
    match kind {
        Kind::Service | Kind::ServiceExport => label("metadata.name", name).map(|_| ()),
        Kind::EndpointSlice | Kind::HttpRoute | Kind::ServiceEntry => {
            let valid = name.len() <= OBJECT_NAME_LEN_MAX && name.split('.').all(|part| Label::from_str(part).is_ok());
            let error = || Remark::about(name, format!("metadata.name: {name:?} is not an RFC 1123 subdomain"));
            if valid { Ok(()) } else { Err(error()) }
        }
    }
}

fn label(field: &str, text: &str) -> Result<Label, Remark> {
    text.parse().map_err(|error| Remark::about(text, format!("{field}: {error}")))
}

/// Checks a manifest of a known kind. Remarks that do not stand in the way go to `warnings`.
///
/// # Errors
/// Why the object cannot be taken.
pub(crate) fn check(
    key: &ObjectKey,
    manifest: &Value,
    rules: &Rules,
    warnings: &mut Vec<Remark>,
) -> Result<Object, Remark> {
    match key.kind {
        Kind::Service => {
            let service: Service = typed(manifest, warnings)?;
            service::reduce(&service, rules, warnings).map(Object::Service)
        }
        Kind::EndpointSlice => {
            let slice: EndpointSlice = typed(manifest, warnings)?;
            endpoint_slice::reduce(&slice, rules, warnings).map(Object::EndpointSlice)
        }
        Kind::ServiceExport => {
            let _: ServiceExport = typed(manifest, warnings)?;
            Ok(Object::ServiceExport)
        }
        Kind::HttpRoute => {
            let route: http_route::Manifest = typed(manifest, warnings)?;
            http_route::reduce(route, &key.namespace, rules, warnings).map(Object::HttpRoute)
        }
        Kind::ServiceEntry => {
            let entry: service_entry::Manifest = typed(manifest, warnings)?;
            service_entry::reduce(entry, rules).map(Object::ServiceEntry)
        }
    }
}

/// A ServiceExport as far as it is understood: that it exists is what it says. k8s-openapi has only built-in
/// kinds, so this one is our own.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceExport {
    api_version: String,
    kind: String,
    metadata: Map<String, Value>,
    /// Written by MCS controllers, of no meaning in a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
}

/// A manifest of a kind that k8s-openapi has not, with the specification `S`.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest<S> {
    api_version: String,
    kind: String,
    metadata: Map<String, Value>,
    pub(crate) spec: S,
    /// Written by controllers, of no meaning in a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
}

/// Reads a manifest as `T`. Fields that `T` does not know are reported, as `kubectl --validate=strict` does: a
/// misspelt field would else be a silent default.
fn typed<T: DeserializeOwned + Serialize>(manifest: &Value, warnings: &mut Vec<Remark>) -> Result<T, Remark> {
    let object = T::deserialize(manifest).map_err(|error| Remark::new(error.to_string()))?;
    let understood = serde_json::to_value(&object).map_err(|error| Remark::new(error.to_string()))?;
    let mut unknown = Vec::new();
    unknown_fields(manifest, &understood, "", &mut unknown);
    warnings.extend(unknown.into_iter().map(|(path, field)| {
        Remark::about(field, format!("field {path} is not known and has no effect; check its spelling and place"))
    }));
    Ok(object)
}

/// Collects (path, name) of the fields of `given` that are not in `understood`.
fn unknown_fields(given: &Value, understood: &Value, path: &str, unknown: &mut Vec<(String, String)>) {
    match (given, understood) {
        (Value::Object(given), Value::Object(understood)) => {
            for (name, value) in given.iter().filter(|(_, value)| !value.is_null()) {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match understood.get(name) {
                    Some(inner) => unknown_fields(value, inner, &path, unknown),
                    None if unknown.len() < UNKNOWN_FIELDS_MAX => unknown.push((path, name.clone())),
                    None => return,
                }
            }
        }
        (Value::Array(given), Value::Array(understood)) => {
            for (index, (value, inner)) in given.iter().zip(understood).enumerate() {
                unknown_fields(value, inner, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
