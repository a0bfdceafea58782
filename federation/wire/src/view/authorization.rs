//! The policies that are about a sidecar's workload, whole: a part of them would be other ones.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_model::authorization::{
    Action, Authorization, Choice, FORM, Operation, PATTERN_BYTES_MAX, Pattern, PatternError, Rule, Ruleset, SIZE_MAX,
    Selector, Source,
};
use isthmus_model::name::{NamespacedName, ServiceName};
use isthmus_model::shared::OrdMap;
use isthmus_model::snapshot::Snapshot;

use super::{AUTHORIZATIONS_MAX, Asked};
use crate::control;
use crate::error::WireError;
use crate::field;

/// Policies by name.
pub(super) type Authorizations = OrdMap<NamespacedName, Authorization>;

/// Whether policies are about a sidecar's workload that the sidecar is too old to understand. It is not told that the workload
/// is where it is, then, and lets no peer in. One that takes clients in the clear goes on doing so.
#[must_use]
pub fn is_overtaxed(full: &Snapshot, asked: &Asked) -> bool {
    asked.rules_form < FORM && asked.own_address.is_some_and(|own| about(full, asked, own).next().is_some())
}

/// What a sidecar is told: what is about its workload.
pub(super) fn told(full: &Snapshot, asked: &Asked) -> Authorizations {
    let about = asked.own_address.into_iter().flat_map(|own| about(full, asked, own));
    about.map(|(name, says)| (name.clone(), Authorization { selects: vec![Selector::All], says })).collect()
}

fn about<'a>(
    full: &'a Snapshot,
    asked: &'a Asked,
    own: IpAddr,
) -> impl Iterator<Item = (&'a NamespacedName, Arc<Ruleset>)> {
    let about = full.rules_about(asked.workload.as_ref(), own);
    about.map(|(name, says)| (name, says.clone()))
}

pub(super) fn encode(authorizations: &Authorizations) -> control::Authorizations {
    control::Authorizations { policies: authorizations.iter().map(|(name, policy)| policy_of(name, policy)).collect() }
}

fn policy_of(name: &NamespacedName, policy: &Authorization) -> control::Authorization {
    let action = match policy.says.action {
        Action::Allow => control::Action::Allow,
        Action::Deny => control::Action::Deny,
    };
    let rule = |rule: &Rule| control::Rule {
        from: rule.from.iter().map(source_of).collect(),
        to: rule.to.iter().map(operation_of).collect(),
    };
    control::Authorization {
        namespace: name.namespace.to_string(),
        name: name.name.clone(),
        action: action.into(),
        rules: policy.says.rules.iter().map(rule).collect(),
    }
}

fn source_of(source: &Source) -> control::Source {
    control::Source {
        principals: texts(&source.principals),
        namespaces: texts(&source.namespaces),
        clusters: texts(&source.clusters),
    }
}

fn operation_of(operation: &Operation) -> control::Operation {
    control::Operation {
        services: texts(&operation.services),
        ports: operation.ports.of.iter().map(|port| u32::from(*port)).collect(),
        not_ports: operation.ports.not.iter().map(|port| u32::from(*port)).collect(),
        methods: texts(&operation.methods),
        paths: texts(&operation.paths),
    }
}

fn texts<T: Display>(choice: &Choice<T>) -> Option<control::Choice> {
    let written = |values: &[T]| values.iter().map(ToString::to_string).collect();
    (!choice.is_any()).then(|| control::Choice { of: written(&choice.of), not: written(&choice.not) })
}

pub(super) fn decode(message: &control::Authorizations) -> Result<Authorizations, WireError> {
    field::count("authorizations", message.policies.len(), AUTHORIZATIONS_MAX)?;
    let mut authorizations = Authorizations::new();
    for record in &message.policies {
        let says = Arc::new(ruleset(record)?);
        let name = NamespacedName {
            namespace: field::name("authorizations.namespace", &record.namespace)?,
            name: bounded("authorizations.name", &record.name, NAME_BYTES_MAX)?.to_owned(),
        };
        let policy = Authorization { selects: vec![Selector::All], says };
        if authorizations.insert(name, policy).is_some() {
            return Err(WireError::Duplicate { field: "authorizations.name", value: record.name.clone() });
        }
    }
    Ok(authorizations)
}

/// The longest RFC 1123 subdomain.
const NAME_BYTES_MAX: usize = 253;

fn ruleset(record: &control::Authorization) -> Result<Ruleset, WireError> {
    let action = match control::Action::try_from(record.action) {
        Ok(control::Action::Allow) => Action::Allow,
        Ok(control::Action::Deny) => Action::Deny,
        Ok(control::Action::Unknown) | Err(_) => {
            let (value, limit) = (record.action.into(), i32::from(control::Action::Deny).into());
            return Err(WireError::OutOfRange { field: "authorizations.action", value, limit });
        }
    };
    let says = Ruleset { action, rules: record.rules.iter().map(rule).collect::<Result<_, _>>()? };
    let too_large = |too_large: isthmus_model::authorization::TooLarge| WireError::TooMany {
        field: "authorizations.rules",
        count: too_large.0,
        limit: SIZE_MAX,
    };
    says.check().map_err(too_large)?;
    Ok(says)
}

fn rule(record: &control::Rule) -> Result<Rule, WireError> {
    let from = record.from.iter().map(|record| {
        Ok(Source {
            principals: choice("authorizations.principals", record.principals.as_ref(), of(Pattern::of_principals))?,
            namespaces: choice("authorizations.namespaces", record.namespaces.as_ref(), of(Pattern::of_labels))?,
            clusters: choice("authorizations.clusters", record.clusters.as_ref(), of(Pattern::of_labels))?,
        })
    });
    let to = record.to.iter().map(|record| {
        let port = |port: &u32| field::port("authorizations.ports", *port);
        Ok(Operation {
            services: choice("authorizations.services", record.services.as_ref(), field::name::<ServiceName>)?,
            ports: Choice {
                of: record.ports.iter().map(port).collect::<Result<_, _>>()?,
                not: record.not_ports.iter().map(port).collect::<Result<_, _>>()?,
            },
            methods: choice("authorizations.methods", record.methods.as_ref(), of(Pattern::of_methods))?,
            paths: choice("authorizations.paths", record.paths.as_ref(), of(Pattern::of_paths))?,
        })
    });
    Ok(Rule { from: from.collect::<Result<_, WireError>>()?, to: to.collect::<Result<_, WireError>>()? })
}

fn choice<T>(
    field: &'static str,
    record: Option<&control::Choice>,
    read: impl Fn(&'static str, &str) -> Result<T, WireError>,
) -> Result<Choice<T>, WireError> {
    let Some(record) = record else { return Ok(Choice::default()) };
    let all = |texts: &[String]| texts.iter().map(|text| read(field, text)).collect::<Result<_, _>>();
    Ok(Choice { of: all(&record.of)?, not: all(&record.not)? })
}

fn of(
    read: impl Fn(&str) -> Result<Pattern, PatternError>,
) -> impl Fn(&'static str, &str) -> Result<Pattern, WireError> {
    move |field, text| {
        read(bounded(field, text, PATTERN_BYTES_MAX)?).map_err(|source| WireError::Pattern { field, source })
    }
}

fn bounded<'a>(field: &'static str, text: &'a str, limit: usize) -> Result<&'a str, WireError> {
    if text.len() <= limit { Ok(text) } else { Err(WireError::TooLong { field, length: text.len(), limit }) }
}
