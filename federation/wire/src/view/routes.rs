//! The routes of a service, which its callers' side goes by.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::http_route::valid::{self, Invalid};
use isthmus_model::http_route::{
    Action, BACKENDS_MAX, Backend, CONDITIONS_MAX, Condition, HeaderChange, MATCHES_MAX, MATCHES_PER_SERVICE_MAX,
    Match, PARENTS_MAX, PathMatch, PathRewrite, RULES_MAX, Redirect, Rule, Scheme, ServiceRoute, ServiceRoutes,
};

use crate::control::{self, http_match, http_rule, path_rewrite};
use crate::error::WireError;
use crate::field;

pub(super) fn encode(routes: &ServiceRoutes) -> Vec<control::HttpRoute> {
    let route = |route: &ServiceRoute| control::HttpRoute {
        ports: route.ports.iter().map(|port| u32::from(*port)).collect(),
        rules: route.rules.iter().map(rule_of).collect(),
    };
    routes.routes().iter().map(route).collect()
}

fn rule_of(rule: &Rule) -> control::HttpRule {
    let timeout = rule.timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    control::HttpRule {
        matches: rule.matches.iter().map(match_of).collect(),
        request_headers: change_of(&rule.request_headers),
        response_headers: change_of(&rule.response_headers),
        rewrite: rule.rewrite.as_ref().map(rewrite_of),
        action: Some(match &rule.action {
            Action::Forward(backends) => http_rule::Action::Forward(control::HttpBackends {
                backends: backends.iter().map(backend_of).collect(),
            }),
            Action::Redirect(redirect) => http_rule::Action::Redirect(redirect_of(redirect)),
        }),
        timeout,
    }
}

fn match_of(condition: &Match) -> control::HttpMatch {
    control::HttpMatch {
        path: Some(match &condition.path {
            PathMatch::Exact(path) => http_match::Path::Exact(path.clone()),
            PathMatch::Prefix(path) => http_match::Path::Prefix(path.clone()),
        }),
        method: condition.method.clone().unwrap_or_default(),
        headers: condition.headers.iter().map(field_of).collect(),
        query: condition.query.iter().map(field_of).collect(),
    }
}

fn field_of(condition: &Condition) -> control::HttpField {
    control::HttpField { name: condition.name.clone(), value: condition.value.clone() }
}

fn change_of(change: &HeaderChange) -> Option<control::HeaderChange> {
    (*change != HeaderChange::default()).then(|| control::HeaderChange {
        set: change.set.iter().map(field_of).collect(),
        add: change.add.iter().map(field_of).collect(),
        remove: change.remove.clone(),
    })
}

fn rewrite_of(rewrite: &PathRewrite) -> control::PathRewrite {
    control::PathRewrite {
        to: Some(match rewrite {
            PathRewrite::Full(path) => path_rewrite::To::Full(path.clone()),
            PathRewrite::Prefix(path) => path_rewrite::To::Prefix(path.clone()),
        }),
    }
}

fn backend_of(backend: &Backend) -> control::HttpBackend {
    control::HttpBackend { service: backend.service.to_string(), port: backend.port.into(), weight: backend.weight }
}

fn redirect_of(redirect: &Redirect) -> control::HttpRedirect {
    let scheme = match redirect.scheme {
        None => control::HttpScheme::AsCalled,
        Some(Scheme::Http) => control::HttpScheme::Http,
        Some(Scheme::Https) => control::HttpScheme::Https,
    };
    control::HttpRedirect {
        scheme: scheme.into(),
        host: redirect.host.clone().unwrap_or_default(),
        port: redirect.port.map_or(0, u32::from),
        path: redirect.path.as_ref().map(rewrite_of),
        status: redirect.status.into(),
    }
}

/// Reads routes, and holds them to what manifests are held to.
pub(super) fn decode(records: &[control::HttpRoute]) -> Result<ServiceRoutes, WireError> {
    // Each has a match at least.
    field::count("services.routes", records.len(), MATCHES_PER_SERVICE_MAX)?;
    Ok(ServiceRoutes::new(records.iter().map(route).collect::<Result<_, _>>()?)?)
}

fn route(record: &control::HttpRoute) -> Result<ServiceRoute, WireError> {
    field::count("services.routes.ports", record.ports.len(), PARENTS_MAX)?;
    field::count("services.routes.rules", record.rules.len(), RULES_MAX)?;
    let ports = record.ports.iter().map(|port| valid_port("services.routes.ports", *port));
    let ports: BTreeSet<u16> = ports.collect::<Result<_, _>>()?;
    let rules: Arc<[Rule]> = record.rules.iter().map(rule).collect::<Result<_, _>>()?;
    Ok(ServiceRoute { ports: ports.into_iter().collect(), rules })
}

/// A value that was checked, or which field it was.
fn checked<T>(field: &'static str, value: Result<T, Invalid>) -> Result<T, WireError> {
    value.map_err(|source| WireError::Route { field, source })
}

fn rule(record: &control::HttpRule) -> Result<Rule, WireError> {
    if record.matches.is_empty() {
        return Err(WireError::Missing { field: "services.routes.rules.matches" });
    }
    field::count("services.routes.rules.matches", record.matches.len(), MATCHES_MAX)?;
    let timeout = Duration::from_millis(record.timeout);
    checked("services.routes.rules.timeout", valid::timeout(timeout))?;
    let action = match &record.action {
        Some(http_rule::Action::Forward(to)) => {
            field::count("services.routes.rules.backends", to.backends.len(), BACKENDS_MAX)?;
            Action::Forward(to.backends.iter().map(backend).collect::<Result<_, _>>()?)
        }
        Some(http_rule::Action::Redirect(to)) => Action::Redirect(redirect(to)?),
        None => return Err(WireError::Missing { field: "services.routes.rules.action" }),
    };
    Ok(Rule {
        matches: record.matches.iter().map(condition).collect::<Result<_, _>>()?,
        request_headers: change("services.routes.rules.request_headers", record.request_headers.as_ref())?,
        response_headers: change("services.routes.rules.response_headers", record.response_headers.as_ref())?,
        rewrite: record.rewrite.as_ref().map(|to| rewrite("services.routes.rules.rewrite", to)).transpose()?,
        action,
        timeout: (!timeout.is_zero()).then_some(timeout),
    })
}

fn condition(record: &control::HttpMatch) -> Result<Match, WireError> {
    const PATH: &str = "services.routes.rules.matches.path";
    const HEADERS: &str = "services.routes.rules.matches.headers";
    const QUERY: &str = "services.routes.rules.matches.query";
    let path = match &record.path {
        Some(http_match::Path::Exact(path)) => PathMatch::Exact(valid_path(PATH, path)?),
        Some(http_match::Path::Prefix(path)) => PathMatch::Prefix(valid_path(PATH, path)?),
        None => return Err(WireError::Missing { field: PATH }),
    };
    let method = Some(&record.method).filter(|method| !method.is_empty());
    if let Some(method) = method {
        checked("services.routes.rules.matches.method", valid::method(method))?;
    }
    let parameter = |name: &str| valid::parameter(name).map(|()| name.to_owned());
    Ok(Match {
        path,
        method: method.cloned(),
        headers: fields(HEADERS, &record.headers, valid::header)?,
        query: fields(QUERY, &record.query, parameter)?,
    })
}

fn valid_path(field: &'static str, path: &str) -> Result<String, WireError> {
    checked(field, valid::path(path)).map(|()| path.to_owned())
}

fn valid_port(field: &'static str, port: u32) -> Result<u16, WireError> {
    let port = field::port(field, port)?;
    checked(field, valid::port(port)).map(|()| port)
}

fn fields(
    field: &'static str,
    records: &[control::HttpField],
    name: impl Fn(&str) -> Result<String, Invalid>,
) -> Result<Vec<Condition>, WireError> {
    field::count(field, records.len(), CONDITIONS_MAX)?;
    let read = records.iter().map(|record| {
        checked(field, valid::value(&record.value))?;
        Ok(Condition { name: checked(field, name(&record.name))?, value: record.value.clone() })
    });
    read.collect()
}

fn change(field: &'static str, record: Option<&control::HeaderChange>) -> Result<HeaderChange, WireError> {
    let Some(record) = record else { return Ok(HeaderChange::default()) };
    field::count(field, record.set.len() + record.add.len() + record.remove.len(), CONDITIONS_MAX)?;
    let remove = record.remove.iter().map(|name| checked(field, valid::writable(name)));
    Ok(HeaderChange {
        set: fields(field, &record.set, valid::writable)?,
        add: fields(field, &record.add, valid::writable)?,
        remove: remove.collect::<Result<_, _>>()?,
    })
}

fn rewrite(field: &'static str, record: &control::PathRewrite) -> Result<PathRewrite, WireError> {
    match &record.to {
        Some(path_rewrite::To::Full(path)) => valid_path(field, path).map(PathRewrite::Full),
        Some(path_rewrite::To::Prefix(path)) => valid_path(field, path).map(PathRewrite::Prefix),
        None => Err(WireError::Missing { field }),
    }
}

fn backend(record: &control::HttpBackend) -> Result<Backend, WireError> {
    checked("services.routes.rules.backends.weight", valid::weight(record.weight))?;
    Ok(Backend {
        service: field::name("services.routes.rules.backends.service", &record.service)?,
        port: valid_port("services.routes.rules.backends.port", record.port)?,
        weight: record.weight,
    })
}

fn redirect(record: &control::HttpRedirect) -> Result<Redirect, WireError> {
    const SCHEME: &str = "services.routes.rules.redirect.scheme";
    const STATUS: &str = "services.routes.rules.redirect.status";
    let scheme = match control::HttpScheme::try_from(record.scheme) {
        Ok(control::HttpScheme::AsCalled) => None,
        Ok(control::HttpScheme::Http) => Some(Scheme::Http),
        Ok(control::HttpScheme::Https) => Some(Scheme::Https),
        Err(_) => {
            let (value, limit) = (record.scheme.into(), i32::from(control::HttpScheme::Https).into());
            return Err(WireError::OutOfRange { field: SCHEME, value, limit });
        }
    };
    let host = Some(&record.host).filter(|host| !host.is_empty());
    if let Some(host) = host {
        checked("services.routes.rules.redirect.host", valid::host(host))?;
    }
    let port = field::port("services.routes.rules.redirect.port", record.port)?;
    let status = field::port(STATUS, record.status)?;
    checked(STATUS, valid::status(status))?;
    let path = record.path.as_ref().map(|to| rewrite("services.routes.rules.redirect.path", to)).transpose()?;
    Ok(Redirect { scheme, host: host.cloned(), port: (port != 0).then_some(port), path, status })
}
