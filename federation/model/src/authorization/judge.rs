//! The decision.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Action, Choice, Operation, Pattern, Rule, Ruleset, Source};
use crate::name::{NamespacedName, ServiceName};
use crate::path::{PathError, canonical};
use crate::spiffe::SpiffeId;

/// What somebody asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// Who calls; `None` when nobody vouches for the caller.
    pub peer: Option<&'a SpiffeId>,
    /// The services that it may be for: one, unless only the port is known.
    pub services: &'a [ServiceName],
    /// The port of the application.
    pub port: u16,
    /// What only a request of HTTP has; `None` for bytes.
    pub http: Option<Http<'a>>,
}

/// A request, as far as rules ask for it.
#[derive(Clone, Copy, Debug)]
pub struct Http<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path as it was sent, without its query.
    pub path: &'a str,
}

/// That something may be passed on. Only [`judge`] makes one.
#[derive(Debug, PartialEq, Eq)]
pub struct Permitted {
    path: Option<String>,
}

impl Permitted {
    /// Either, of the same request: judged by its path if one of them is.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { path: self.path.or(other.path) }
    }

    /// The canonical form of the path, where rules are about paths: what was judged, and therefore what has to be passed on.
    #[must_use]
    pub fn into_path(self) -> Option<String> {
        self.path
    }
}

/// Why it may not. What is said is for the caller, to whom the names of another cluster's policies say nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// This policy denies it.
    #[error("an authorization policy there denies it")]
    Denied(NamespacedName),
    /// There are policies that allow something, and none of them this.
    #[error("no authorization policy there allows it")]
    NotAllowed,
    /// There are policies about paths, and this is none that has one meaning.
    #[error("authorization policies there are about paths: {0}")]
    Path(#[from] PathError),
}

/// Decides by the rules that are about the workload where it lands.
///
/// # Errors
/// The [`Denial`].
pub fn judge<'a>(
    rules: impl IntoIterator<Item = (&'a NamespacedName, &'a Arc<Ruleset>)>,
    asking: &Asking<'_>,
) -> Result<Permitted, Denial> {
    let rules: Vec<_> = rules.into_iter().collect();
    if rules.is_empty() {
        return Ok(Permitted { path: None });
    }
    let about_paths = rules.iter().any(|(_, says)| says.is_about_paths());
    let path = asking.http.filter(|_| about_paths).map(|http| canonical(http.path)).transpose()?;
    let request = Request {
        principal: asking.peer.map(ToString::to_string),
        asking,
        path: path.as_deref().or(asking.http.map(|http| http.path)),
    };
    let of = |action| rules.iter().filter(move |(_, says)| says.action == action);
    if let Some((name, _)) = of(Action::Deny).find(|(_, says)| request.matches(says)) {
        return Err(Denial::Denied(NamespacedName::clone(name)));
    }
    if of(Action::Allow).next().is_some() && !of(Action::Allow).any(|(_, says)| request.matches(says)) {
        return Err(Denial::NotAllowed);
    }
    Ok(Permitted { path: path.map(Cow::into_owned) })
}

/// What rules compare with.
struct Request<'a> {
    asking: &'a Asking<'a>,
    /// The peer's SPIFFE ID.
    principal: Option<String>,
    /// In canonical form, if any rule asks for it.
    path: Option<&'a str>,
}

impl Request<'_> {
    fn matches(&self, says: &Ruleset) -> bool {
        let denies = says.action == Action::Deny;
        says.rules.iter().any(|rule| self.is(rule, denies))
    }

    fn is(&self, Rule { from, to }: &Rule, denies: bool) -> bool {
        (from.is_empty() || from.iter().any(|source| self.is_from(source, denies)))
            && (to.is_empty() || to.iter().any(|operation| self.is_for(operation, denies)))
    }

    fn is_from(&self, Source { principals, namespaces, clusters }: &Source, denies: bool) -> bool {
        let workload = self.asking.peer.and_then(SpiffeId::as_workload);
        let namespace = workload.map(|workload| workload.namespace.as_str());
        let cluster = self.asking.peer.map(|peer| peer.trust_domain.cluster.as_str());
        is_known(principals, self.principal.as_deref(), denies)
            && is_known(namespaces, namespace, denies)
            && is_known(clusters, cluster, denies)
    }

    fn is_for(&self, Operation { services, ports, methods, paths }: &Operation, denies: bool) -> bool {
        let asking = self.asking;
        let of_http = match asking.http {
            Some(http) => {
                let path = self.path.unwrap_or(http.path);
                is_method(methods, http.method, denies) && is_path(paths, path, denies)
            }
            None => denies || (methods.is_any() && paths.is_any()),
        };
        of_http && ports.holds(|port| *port == asking.port) && is_service(services, asking.services, denies)
    }
}

/// Whether somebody of whom `text` is known is meant. Where nothing is known, nobody is of those who are named, and nobody is let in
/// for not being one of others.
fn is_known(choice: &Choice<Pattern>, text: Option<&str>, denies: bool) -> bool {
    match text {
        Some(text) => choice.holds(|pattern| pattern.matches(text)),
        None => choice.is_any() || (denies && choice.of.is_empty()),
    }
}

/// Of several services that may be meant, one is enough to deny, and all have to be allowed. So it is for the ways to read a path.
fn is_service(choice: &Choice<ServiceName>, services: &[ServiceName], denies: bool) -> bool {
    let mut meant = services.iter().map(|service| choice.holds(|one| one == service));
    match services {
        [] => choice.is_any() || denies,
        _ if denies => meant.any(|meant| meant),
        _ => meant.all(|meant| meant),
    }
}

/// Some applications take a method in lower case for the one in upper case.
fn is_method(choice: &Choice<Pattern>, method: &str, denies: bool) -> bool {
    let upper = method.to_ascii_uppercase();
    let (of, not) = if denies { (upper.as_str(), method) } else { (method, upper.as_str()) };
    (choice.of.is_empty() || choice.of.iter().any(|pattern| pattern.matches(of)))
        && !choice.not.iter().any(|pattern| pattern.matches(not))
}

fn is_path(choice: &Choice<Pattern>, path: &str, denies: bool) -> bool {
    let of = choice.of.is_empty() || choice.of.iter().any(|pattern| pattern.matches_path(path, denies));
    // What is excluded from a denial has to be it in every reading; from a permission, in none.
    of && !choice.not.iter().any(|pattern| pattern.matches_path(path, !denies))
}
