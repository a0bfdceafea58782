//! HTTPRoute as it is written.
//!
//! A field that is not here is an error, and not skipped.

use serde::{Deserialize, Serialize};

/// The manifest, as far as it is understood. k8s-openapi has only built-in kinds.
pub(crate) type Manifest = super::super::Manifest<Spec>;

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Spec {
    #[serde(default)]
    pub(super) parent_refs: Vec<ParentRef>,
    #[serde(default)]
    pub(super) hostnames: Vec<String>,
    #[serde(default)]
    pub(super) rules: Vec<RuleSpec>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ParentRef {
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) section_name: Option<String>,
    pub(super) port: Option<u16>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RuleSpec {
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) matches: Vec<MatchSpec>,
    #[serde(default)]
    pub(super) filters: Vec<Filter>,
    #[serde(default)]
    pub(super) backend_refs: Vec<BackendRef>,
    pub(super) timeouts: Option<Timeouts>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct MatchSpec {
    pub(super) path: Option<TypedValue>,
    #[serde(default)]
    pub(super) headers: Vec<NamedValue>,
    #[serde(default)]
    pub(super) query_params: Vec<NamedValue>,
    pub(super) method: Option<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedValue {
    pub(super) r#type: Option<String>,
    pub(super) value: Option<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedValue {
    pub(super) r#type: Option<String>,
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Filter {
    pub(super) r#type: String,
    pub(super) request_header_modifier: Option<Modifier>,
    pub(super) response_header_modifier: Option<Modifier>,
    pub(super) request_redirect: Option<RedirectSpec>,
    pub(super) url_rewrite: Option<UrlRewrite>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Modifier {
    #[serde(default)]
    pub(super) set: Vec<NamedValue>,
    #[serde(default)]
    pub(super) add: Vec<NamedValue>,
    #[serde(default)]
    pub(super) remove: Vec<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RedirectSpec {
    pub(super) scheme: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) path: Option<PathModifier>,
    pub(super) port: Option<u16>,
    pub(super) status_code: Option<u16>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UrlRewrite {
    pub(super) path: Option<PathModifier>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PathModifier {
    pub(super) r#type: String,
    pub(super) replace_full_path: Option<String>,
    pub(super) replace_prefix_match: Option<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackendRef {
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) port: Option<u16>,
    pub(super) weight: Option<u32>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Timeouts {
    pub(super) request: Option<String>,
}
