//! HTTPRoutes (`gateway.networking.k8s.io/v1`): what requests from outside are routed by.
//!
//! What is not understood refuses the whole route, with the field's name: a rule without its condition would let in more than it
//! says.

mod manifest;

use std::collections::BTreeSet;
use std::time::Duration;

use isthmus_model::http_route::{
    Action, BACKENDS_MAX, Backend, CONDITIONS_MAX, Condition, HOSTNAMES_MAX, HeaderChange, HttpRoute, MATCHES_MAX,
    Match, Parent, PathMatch, PathRewrite, RULES_MAX, Redirect, Rule, Scheme, WEIGHT_MAX,
};
use isthmus_model::name::{Label, ServiceName};
use isthmus_model::path::canonical;

use manifest::{
    BackendRef, Filter, MatchSpec, Modifier, NamedValue, ParentRef, PathModifier, RedirectSpec, RuleSpec, Spec,
    TypedValue,
};

use super::{Remark, Rules, label};

pub(crate) use manifest::Manifest;

const GROUP: &str = "gateway.networking.k8s.io";
/// The longest value of a condition, as in the Gateway API.
const VALUE_BYTES_MAX: usize = 4_096;
/// The longest that a request can be given.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Checks an HTTPRoute of `namespace`.
///
/// # Errors
/// The first thing that makes it unusable.
pub(crate) fn reduce(
    manifest: Manifest,
    namespace: &Label,
    rules: &Rules,
    warnings: &mut Vec<Remark>,
) -> Result<HttpRoute, Remark> {
    let Spec { parent_refs, hostnames, rules: given } = manifest.spec;
    at_most("spec.hostnames", hostnames.len(), HOSTNAMES_MAX)?;
    at_most("spec.rules", given.len(), RULES_MAX)?;
    let mut parents = Vec::new();
    for parent in parent_refs {
        parents.extend(self::parent(parent, rules, warnings)?);
    }
    let hostnames = hostnames
        .iter()
        .map(|host| host.parse().map_err(|error| Remark::about(host, format!("spec.hostnames: {error}"))));
    let hostnames = hostnames.collect::<Result<_, _>>()?;
    let given = given.into_iter().map(|spec| rule(spec, namespace)).collect::<Result<_, _>>()?;
    Ok(HttpRoute { parents, hostnames, rules: given })
}

fn at_most(field: &str, found: usize, max: usize) -> Result<(), Remark> {
    let last = field.rsplit('.').next().unwrap_or(field);
    if found <= max {
        Ok(())
    } else {
        Err(Remark::about(last, format!("{field} has {found} entries, {max} are allowed")))
    }
}

/// The gateway's listener that a route asks for; none with a warning if there is no such one here.
fn parent(spec: ParentRef, rules: &Rules, warnings: &mut Vec<Remark>) -> Result<Option<Parent>, Remark> {
    let (group, kind) = (spec.group.as_deref().unwrap_or(GROUP), spec.kind.as_deref().unwrap_or("Gateway"));
    if (group, kind) != (GROUP, "Gateway") {
        let reason = format!("parentRefs: {kind} {} has no effect: routes are for gateways only", spec.name);
        warnings.push(Remark::about(spec.name, reason));
        return Ok(None);
    }
    match &rules.ingress {
        Some(known) if *known == spec.name => {}
        Some(known) => {
            let reason =
                format!("parentRefs: there is no gateway {:?} here; `ingress.gateway` is {known:?}", spec.name);
            warnings.push(Remark::about(&spec.name, reason));
        }
        None => {
            let reason = "parentRefs: this gateway takes no requests from outside: `ingress` is not configured";
            warnings.push(Remark::about(&spec.name, reason));
        }
    }
    let section = match spec.section_name.as_deref() {
        None => None,
        Some("http") => Some(Scheme::Http),
        Some("https") => Some(Scheme::Https),
        Some(other) => {
            return Err(Remark::about(
                other,
                format!("parentRefs.sectionName: {other:?}: the listeners are http and https"),
            ));
        }
    };
    Ok(Some(Parent { gateway: spec.name, section }))
}

fn rule(spec: RuleSpec, namespace: &Label) -> Result<Rule, Remark> {
    at_most("rules.matches", spec.matches.len(), MATCHES_MAX)?;
    at_most("rules.backendRefs", spec.backend_refs.len(), BACKENDS_MAX)?;
    let matches = spec.matches.into_iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    let backends = spec.backend_refs.into_iter().map(|backend| self::backend(backend, namespace));
    let backends = backends.collect::<Result<Vec<_>, _>>()?;
    let mut rule = Rule {
        matches: if matches.is_empty() { vec![Match::default()] } else { matches },
        request_headers: HeaderChange::default(),
        response_headers: HeaderChange::default(),
        rewrite: None,
        action: Action::Forward(backends),
        timeout: spec.timeouts.and_then(|timeouts| timeouts.request).map(|text| timeout(&text)).transpose()?.flatten(),
    };
    let mut kinds = BTreeSet::new();
    for filter in spec.filters {
        if !kinds.insert(filter.r#type.clone()) {
            return Err(Remark::about(&filter.r#type, format!("filters: {} is there twice", filter.r#type)));
        }
        apply(filter, &mut rule)?;
    }
    if kinds.contains("RequestRedirect") && kinds.contains("URLRewrite") {
        return Err(Remark::about(
            "URLRewrite",
            "a rule that redirects rewrites nothing: the redirection has a path of its own",
        ));
    }
    Ok(rule)
}

fn condition(spec: MatchSpec) -> Result<Match, Remark> {
    at_most("matches.headers", spec.headers.len(), CONDITIONS_MAX)?;
    at_most("matches.queryParams", spec.query_params.len(), CONDITIONS_MAX)?;
    let path = spec.path.map(path).transpose()?.unwrap_or_else(|| Match::default().path);
    let headers = spec.headers.into_iter().map(|header| named(header, "matches.headers", header_name));
    let query = spec.query_params.into_iter().map(|parameter| named(parameter, "matches.queryParams", Ok));
    let method = spec.method.map(|method| {
        let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
        if known.contains(&method.as_str()) {
            Ok(method)
        } else {
            Err(Remark::about(&method, format!("matches.method: {method:?} is none of {}", known.join(", "))))
        }
    });
    Ok(Match {
        path,
        method: method.transpose()?,
        headers: headers.collect::<Result<_, _>>()?,
        query: query.collect::<Result<_, _>>()?,
    })
}

fn path(spec: TypedValue) -> Result<PathMatch, Remark> {
    let value = spec.value.unwrap_or_else(|| "/".to_owned());
    let as_it_is_compared =
        canonical(&value).map_err(|error| Remark::about(&value, format!("matches.path: {error}")))?;
    if as_it_is_compared != value {
        return Err(Remark::about(
            &value,
            format!("matches.path: {value:?} never occurs: write {as_it_is_compared:?}"),
        ));
    }
    match spec.r#type.as_deref() {
        None | Some("PathPrefix") => Ok(PathMatch::Prefix(value)),
        Some("Exact") => Ok(PathMatch::Exact(value)),
        Some(other) => Err(Remark::about(other, format!("matches.path.type: {other:?}: use Exact or PathPrefix"))),
    }
}

fn named(spec: NamedValue, field: &str, name: impl Fn(String) -> Result<String, Remark>) -> Result<Condition, Remark> {
    let NamedValue { r#type, name: given, value } = spec;
    if let Some(other) = r#type.filter(|of| of != "Exact") {
        return Err(Remark::about(&other, format!("{field}.type: {other:?}: use Exact")));
    }
    if value.len() > VALUE_BYTES_MAX || value.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(Remark::about(
            &given,
            format!("{field}: the value of {given} is too long, or has control characters"),
        ));
    }
    Ok(Condition { name: name(given)?, value })
}

/// A field's name in lower case (RFC 9110 §5.1).
fn header_name(name: String) -> Result<String, Remark> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || name.len() > 256 || !name.bytes().all(token) {
        return Err(Remark::about(&name, format!("{name:?} is not the name of a header")));
    }
    Ok(name.to_ascii_lowercase())
}

/// A field that rules may write. What frames messages, and what data planes vouch for, is not theirs.
fn writable(name: String) -> Result<String, Remark> {
    const OURS: [&str; 11] = [
        "connection",
        "content-length",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-forwarded-client-cert",
    ];
    let lower = header_name(name)?;
    if OURS.contains(&lower.as_str()) || lower.starts_with("x-isthmus-") || lower.contains('_') {
        return Err(Remark::about(&lower, format!("{lower} cannot be written by a route")));
    }
    Ok(lower)
}

fn change(spec: Modifier, field: &str) -> Result<HeaderChange, Remark> {
    at_most(field, spec.set.len() + spec.add.len() + spec.remove.len(), CONDITIONS_MAX)?;
    let fields =
        |all: Vec<NamedValue>| all.into_iter().map(|one| named(one, field, writable)).collect::<Result<_, _>>();
    Ok(HeaderChange {
        set: fields(spec.set)?,
        add: fields(spec.add)?,
        remove: spec.remove.into_iter().map(writable).collect::<Result<_, _>>()?,
    })
}

fn apply(filter: Filter, rule: &mut Rule) -> Result<(), Remark> {
    let Filter { r#type, request_header_modifier, response_header_modifier, request_redirect, url_rewrite } = filter;
    match (r#type.as_str(), request_header_modifier, response_header_modifier, request_redirect, url_rewrite) {
        ("RequestHeaderModifier", Some(spec), None, None, None) => {
            rule.request_headers = change(spec, "filters.requestHeaderModifier")?;
        }
        ("ResponseHeaderModifier", None, Some(spec), None, None) => {
            rule.response_headers = change(spec, "filters.responseHeaderModifier")?;
        }
        ("RequestRedirect", None, None, Some(spec), None) => {
            if matches!(&rule.action, Action::Forward(backends) if !backends.is_empty()) {
                return Err(Remark::about("RequestRedirect", "a rule that redirects has no backendRefs"));
            }
            rule.action = Action::Redirect(redirect(spec)?);
        }
        ("URLRewrite", None, None, None, Some(spec)) => rule.rewrite = spec.path.map(rewritten).transpose()?,
        _ => {
            let reason = "each filter is one of RequestHeaderModifier, ResponseHeaderModifier, RequestRedirect and \
                          URLRewrite, with the field of that name";
            return Err(Remark::about(&r#type, format!("filters.type: {type}: {reason}", type = r#type)));
        }
    }
    Ok(())
}

fn redirect(spec: RedirectSpec) -> Result<Redirect, Remark> {
    let scheme = match spec.scheme.as_deref() {
        None => None,
        Some("http") => Some(Scheme::Http),
        Some("https") => Some(Scheme::Https),
        Some(other) => {
            return Err(Remark::about(other, format!("requestRedirect.scheme: {other:?}: use http or https")));
        }
    };
    let host = spec.hostname.map(|host| match host.parse() {
        Ok(isthmus_model::http_route::HostPattern::Exact(name)) => Ok(name),
        _ => Err(Remark::about(&host, format!("requestRedirect.hostname: {host:?} is not a host name"))),
    });
    let status = spec.status_code.unwrap_or(302);
    if ![301, 302, 303, 307, 308].contains(&status) {
        return Err(Remark::about("statusCode", format!("requestRedirect.statusCode: {status} is no redirection")));
    }
    let (host, path) = (host.transpose()?, spec.path.map(rewritten).transpose()?);
    Ok(Redirect { scheme, host, port: spec.port.filter(|port| *port > 0), path, status })
}

fn rewritten(spec: PathModifier) -> Result<PathRewrite, Remark> {
    let valid = |path: String| match canonical(&path) {
        Ok(same) if same == path => Ok(path),
        Ok(other) => Err(Remark::about(&path, format!("path {path:?}: write {other:?}"))),
        Err(error) => Err(Remark::about(&path, format!("path {path:?}: {error}"))),
    };
    match (spec.r#type.as_str(), spec.replace_full_path, spec.replace_prefix_match) {
        ("ReplaceFullPath", Some(path), None) => Ok(PathRewrite::Full(valid(path)?)),
        ("ReplacePrefixMatch", None, Some(path)) => Ok(PathRewrite::Prefix(valid(path)?)),
        (other, ..) => {
            let reason =
                "path.type: use ReplaceFullPath with replaceFullPath, or ReplacePrefixMatch with replacePrefixMatch";
            Err(Remark::about(other, reason))
        }
    }
}

fn backend(spec: BackendRef, own: &Label) -> Result<Backend, Remark> {
    let (group, kind) = (spec.group.as_deref().unwrap_or(""), spec.kind.as_deref().unwrap_or("Service"));
    if !matches!((group, kind), ("", "Service") | ("multicluster.x-k8s.io", "ServiceImport")) {
        return Err(Remark::about(
            &spec.name,
            format!("backendRefs: {kind} {}: use Service or ServiceImport", spec.name),
        ));
    }
    if spec.namespace.as_deref().is_some_and(|namespace| namespace != own.as_str()) {
        let reason = "backendRefs.namespace: a service of another namespace needs that one's consent, which is not supported: \
                      write the route there";
        return Err(Remark::about("namespace", reason));
    }
    let name = label("backendRefs.name", &spec.name)?;
    let Some(port) = spec.port.filter(|port| *port > 0) else {
        return Err(Remark::about(&spec.name, format!("backendRefs: {} needs a port", spec.name)));
    };
    let weight = spec.weight.unwrap_or(1);
    if weight > WEIGHT_MAX {
        return Err(Remark::about("weight", format!("backendRefs.weight: {weight} is more than {WEIGHT_MAX}")));
    }
    Ok(Backend { service: ServiceName { namespace: own.clone(), name }, port, weight })
}

/// A duration of the Gateway API (GEP-2257). None: no limit.
fn timeout(text: &str) -> Result<Option<Duration>, Remark> {
    let wrong =
        || Remark::about(text, format!("timeouts.request: {text:?} is not a duration: write 10s, 500ms or 1m30s"));
    let (mut rest, mut sum) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = rest.split_at(digits);
        let number: u64 = if digits <= 5 { number.parse().map_err(|_| wrong())? } else { return Err(wrong()) };
        let units: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
        let (name, millis) = units.into_iter().find(|(name, _)| unit.starts_with(name)).ok_or_else(wrong)?;
        sum += Duration::from_millis(number * millis);
        rest = &unit[name.len()..];
    }
    if text.is_empty() || sum > TIMEOUT_MAX {
        return Err(wrong());
    }
    Ok((!sum.is_zero()).then_some(sum))
}

#[cfg(test)]
mod tests;
