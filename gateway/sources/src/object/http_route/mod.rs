//! HTTPRoutes (`gateway.networking.k8s.io/v1`): what requests from outside are routed by, and those of the own cluster's
//! clients to a service.
//!
//! What is not understood refuses the whole route, with the field's name: a rule without its condition would let in more than it
//! says.

mod manifest;
mod parent;

use std::collections::BTreeSet;
use std::time::Duration;

use isthmus_model::http_route::valid::{self, Invalid};
use isthmus_model::http_route::{
    Action, BACKENDS_MAX, Backend, CONDITIONS_MAX, Condition, HOSTNAMES_MAX, HeaderChange, HttpRoute, MATCHES_MAX,
    Match, PARENTS_MAX, Parent, PathMatch, PathRewrite, RULES_MAX, Redirect, Rule, Scheme,
};
use isthmus_model::name::{Label, ServiceName};

use manifest::{
    BackendRef, Filter, MatchSpec, Modifier, NamedValue, PathModifier, RedirectSpec, RuleSpec, Spec, TypedValue,
};

use super::{Remark, Rules, label};

pub(crate) use manifest::Manifest;

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
    at_most("spec.parentRefs", parent_refs.len(), PARENTS_MAX)?;
    at_most("spec.hostnames", hostnames.len(), HOSTNAMES_MAX)?;
    at_most("spec.rules", given.len(), RULES_MAX)?;
    let mut parents = Vec::new();
    for parent in parent_refs {
        parents.extend(parent::read(parent, namespace, rules, warnings)?);
    }
    let hostnames = hostnames
        .iter()
        .map(|host| host.parse().map_err(|error| Remark::about(host, format!("spec.hostnames: {error}"))));
    let hostnames = hostnames.collect::<Result<_, _>>()?;
    let given = given.into_iter().map(|spec| rule(spec, namespace)).collect::<Result<_, _>>()?;
    let route = HttpRoute { parents, hostnames, rules: given };
    check_for_services(&route, warnings)?;
    Ok(route)
}

/// What a route for services cannot say, or says in vain.
fn check_for_services(route: &HttpRoute, warnings: &mut Vec<Remark>) -> Result<(), Remark> {
    if route.services().next().is_none() {
        return Ok(());
    }
    if !route.hostnames.is_empty() && route.parents.iter().all(|parent| matches!(parent, Parent::Service { .. })) {
        let reason = "spec.hostnames have no effect: a service's requests are routed whatever host they name";
        warnings.push(Remark::about("hostnames", reason));
    }
    let mut methods = route.rules.iter().flat_map(|rule| &rule.matches).map(|one| one.method.as_deref());
    if methods.any(|method| method == Some("CONNECT")) {
        let reason = "matches.method: CONNECT to a service opens a connection, which no route is asked about: the rule \
                      would never hold";
        return Err(Remark::about("CONNECT", reason));
    }
    Ok(())
}

fn at_most(field: &str, found: usize, max: usize) -> Result<(), Remark> {
    let last = field.rsplit('.').next().unwrap_or(field);
    if found <= max {
        Ok(())
    } else {
        Err(Remark::about(last, format!("{field} has {found} entries, {max} are allowed")))
    }
}

/// A value that was checked, or what is wrong with which field.
fn checked<T>(field: &str, text: &str, value: Result<T, Invalid>) -> Result<T, Remark> {
    value.map_err(|error| Remark::about(text, format!("{field}: {text:?}: {error}")))
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
    let headers = spec.headers.into_iter().map(|header| named(header, "matches.headers", valid::header));
    let parameter = |name: &str| valid::parameter(name).map(|()| name.to_owned());
    let query = spec.query_params.into_iter().map(|one| named(one, "matches.queryParams", parameter));
    if let Some(method) = &spec.method {
        checked("matches.method", method, valid::method(method))?;
    }
    Ok(Match {
        path,
        method: spec.method,
        headers: headers.collect::<Result<_, _>>()?,
        query: query.collect::<Result<_, _>>()?,
    })
}

fn path(spec: TypedValue) -> Result<PathMatch, Remark> {
    let value = spec.value.unwrap_or_else(|| "/".to_owned());
    checked("matches.path", &value, valid::path(&value))?;
    match spec.r#type.as_deref() {
        None | Some("PathPrefix") => Ok(PathMatch::Prefix(value)),
        Some("Exact") => Ok(PathMatch::Exact(value)),
        Some(other) => Err(Remark::about(other, format!("matches.path.type: {other:?}: use Exact or PathPrefix"))),
    }
}

fn named(spec: NamedValue, field: &str, name: impl Fn(&str) -> Result<String, Invalid>) -> Result<Condition, Remark> {
    let NamedValue { r#type, name: given, value } = spec;
    if let Some(other) = r#type.filter(|of| of != "Exact") {
        return Err(Remark::about(&other, format!("{field}.type: {other:?}: use Exact")));
    }
    let valued = valid::value(&value);
    valued.map_err(|error| Remark::about(&given, format!("{field}: the value of {given:?}: {error}")))?;
    Ok(Condition { name: checked(field, &given, name(&given))?, value })
}

fn change(spec: Modifier, field: &str) -> Result<HeaderChange, Remark> {
    at_most(field, spec.set.len() + spec.add.len() + spec.remove.len(), CONDITIONS_MAX)?;
    let fields =
        |all: Vec<NamedValue>| all.into_iter().map(|one| named(one, field, valid::writable)).collect::<Result<_, _>>();
    let remove = spec.remove.iter().map(|name| checked(field, name, valid::writable(name)));
    Ok(HeaderChange { set: fields(spec.set)?, add: fields(spec.add)?, remove: remove.collect::<Result<_, _>>()? })
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
    if let Some(host) = &spec.hostname {
        checked("requestRedirect.hostname", host, valid::host(host))?;
    }
    let status = spec.status_code.unwrap_or(302);
    checked("requestRedirect.statusCode", &status.to_string(), valid::status(status))?;
    let path = spec.path.map(rewritten).transpose()?;
    Ok(Redirect { scheme, host: spec.hostname, port: spec.port.filter(|port| *port > 0), path, status })
}

fn rewritten(spec: PathModifier) -> Result<PathRewrite, Remark> {
    let valid = |path: String| checked("path", &path, valid::path(&path)).map(|()| path);
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
    let Some(port) = spec.port.filter(|port| valid::port(*port).is_ok()) else {
        return Err(Remark::about(&spec.name, format!("backendRefs: {} needs a port", spec.name)));
    };
    let weight = spec.weight.unwrap_or(1);
    checked("backendRefs.weight", &weight.to_string(), valid::weight(weight))?;
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
    if text.is_empty() {
        return Err(wrong());
    }
    checked("timeouts.request", text, valid::timeout(sum))?;
    Ok((!sum.is_zero()).then_some(sum))
}

#[cfg(test)]
mod tests;
