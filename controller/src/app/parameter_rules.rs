//! What administrators say of parameters: they hide some and narrow others, in what users see and in what is accepted.
//! What the manifest does not describe, they cannot open.

use std::cmp::Ordering;

use serde_json::Number;
use trove_strategy::{Parameter, ParameterType};

use super::App;
use super::names::shown;
use super::parameters::compare;
use crate::error::{Error, Result};
use crate::ids::VersionId;
use crate::model::Version;
use crate::model::configurations::ParameterRule;

/// A parameter as an administrator wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct WantedParameter {
    pub name: String,
    /// Has to be the manifest's.
    pub kind: ParameterType,
    /// Cannot be less than the manifest says.
    pub restart_required: bool,
    /// Within the manifest's, as `max`.
    pub min: Option<Number>,
    pub max: Option<Number>,
}

impl App {
    /// What can be set in a version.
    ///
    /// # Errors
    /// As [`App::manifest`].
    pub async fn parameters(&self, version: &Version) -> Result<Vec<Parameter>> {
        let manifest = self.manifest(version).await?;
        let rules = self.store.parameter_rules(&self.store.read, version.id).await?;
        Ok(ruled(&manifest.parameters, &rules))
    }

    /// A parameter of a version by its name.
    ///
    /// # Errors
    /// 404.
    pub async fn parameter(&self, version: &Version, name: &str) -> Result<Parameter> {
        let all = self.parameters(version).await?;
        let found = all.into_iter().find(|parameter| parameter.name.eq_ignore_ascii_case(name));
        found.ok_or_else(|| missing(name, version))
    }

    /// Shows a parameter that was hidden, or narrows one of which no administrator has said anything.
    ///
    /// # Errors
    /// 404 version; 400: an administrator narrowed it before, or it would be more than the manifest describes.
    pub async fn add_parameter(&self, id: VersionId, wanted: WantedParameter) -> Result<(Version, Parameter)> {
        let refuse = |parameter: &Parameter, rule: Option<&ParameterRule>| match rule {
            Some(rule) if !rule.hidden => {
                Err(Error::BadRequest(format!("Parameter {} exists already: change it.", parameter.name)))
            }
            _ => Ok(()),
        };
        self.rule(id, wanted, refuse).await
    }

    /// Narrows a parameter, in place of what an administrator said before.
    ///
    /// # Errors
    /// 404 version, or a parameter that nobody may set; 400: it would be more than the manifest describes.
    pub async fn change_parameter(&self, id: VersionId, wanted: WantedParameter) -> Result<(Version, Parameter)> {
        let name = wanted.name.clone();
        let refuse = |_: &Parameter, rule: Option<&ParameterRule>| match rule {
            Some(rule) if rule.hidden => Err(Error::NotFound(format!("Parameter {} cannot be found.", shown(&name)))),
            _ => Ok(()),
        };
        self.rule(id, wanted, refuse).await
    }

    /// Hides a parameter. Groups that set it keep it, and instances can no longer be given them.
    ///
    /// # Errors
    /// 404.
    pub async fn hide_parameter(&self, id: VersionId, name: &str) -> Result<()> {
        let (_, version) = self.get_version_by_id(true, id).await?;
        let parameter = self.parameter(&version, name).await?;
        let restart_required = parameter.restart_required;
        let rule = ParameterRule { name: parameter.name, hidden: true, restart_required, min: None, max: None };
        let mut tx = self.store.begin().await?;
        self.store.put_parameter_rule(&mut tx, id, &rule).await?;
        self.commit(tx, "hide_parameter").await
    }

    async fn rule(
        &self,
        id: VersionId,
        wanted: WantedParameter,
        refuse: impl Fn(&Parameter, Option<&ParameterRule>) -> Result<()> + Send,
    ) -> Result<(Version, Parameter)> {
        let (_, version) = self.get_version_by_id(true, id).await?;
        let manifest = self.manifest(&version).await?;
        let described = manifest.parameters.iter().find(|known| known.name.eq_ignore_ascii_case(&wanted.name));
        let described = described.ok_or_else(|| missing(&wanted.name, &version))?;
        let mut tx = self.store.begin().await?;
        let rules = self.store.parameter_rules(&mut *tx, id).await?;
        refuse(described, rules.iter().find(|rule| rule.name == described.name))?;
        check_narrower(described, &wanted)?;
        let rule = ParameterRule {
            name: described.name.clone(),
            hidden: false,
            restart_required: wanted.restart_required,
            min: wanted.min,
            max: wanted.max,
        };
        self.store.put_parameter_rule(&mut tx, id, &rule).await?;
        self.commit(tx, "change_parameter").await?;
        Ok((version, narrowed(described, &rule)))
    }
}

fn missing(name: &str, version: &Version) -> Error {
    let (name, version) = (shown(name), &version.name);
    Error::NotFound(format!("Parameter {name} cannot be found in the datastore version {version}."))
}

/// Refuses what would be more than the manifest describes.
fn check_narrower(described: &Parameter, wanted: &WantedParameter) -> Result<()> {
    let name = &described.name;
    let refuse = |reason: String| Err(Error::BadRequest(format!("Parameter {name} {reason}.")));
    let kind = |kind| match kind {
        ParameterType::Boolean => "boolean",
        ParameterType::Integer => "integer",
        ParameterType::Float => "float",
        ParameterType::String => "string",
    };
    if wanted.kind != described.kind {
        return refuse(format!("is of the type {}: data_type cannot be another", kind(described.kind)));
    }
    if described.restart_required && !wanted.restart_required {
        return refuse("needs a restart: restart_required must be 1".to_owned());
    }
    let is_number = matches!(described.kind, ParameterType::Integer | ParameterType::Float);
    if !is_number && (wanted.min.is_some() || wanted.max.is_some()) {
        return refuse("is no number: it has no min_size and no max_size".to_owned());
    }
    if described.kind == ParameterType::Integer && (wanted.min.is_none() || wanted.max.is_none()) {
        return refuse("is an integer: min_size and max_size are required".to_owned());
    }
    let order = |one: &Option<Number>, other: &Option<Number>| compare(one.as_ref()?, other.as_ref()?);
    if order(&wanted.min, &wanted.max) == Some(Ordering::Greater) {
        return refuse("would take no number: min_size is greater than max_size".to_owned());
    }
    for bound in [&wanted.min, &wanted.max].into_iter().flatten() {
        let bound = Some(bound.clone());
        let below = order(&bound, &described.min) == Some(Ordering::Less);
        let above = order(&bound, &described.max) == Some(Ordering::Greater);
        if below || above {
            let number = |number: &Option<Number>| number.as_ref().map_or("any".to_owned(), Number::to_string);
            let (min, max) = (number(&described.min), number(&described.max));
            return refuse(format!("takes numbers from {min} to {max}: the bounds can be narrower, and not wider"));
        }
    }
    Ok(())
}

/// The parameters of a manifest as administrators want them.
fn ruled(described: &[Parameter], rules: &[ParameterRule]) -> Vec<Parameter> {
    let one = |parameter: &Parameter| match rules.iter().find(|rule| rule.name == parameter.name) {
        Some(rule) if rule.hidden => None,
        Some(rule) => Some(narrowed(parameter, rule)),
        None => Some(parameter.clone()),
    };
    described.iter().filter_map(one).collect()
}

/// The narrower of both, also where the engine was replaced since by one that takes less.
fn narrowed(described: &Parameter, rule: &ParameterRule) -> Parameter {
    let tighter = |one: &Option<Number>, other: &Option<Number>, wanted: Ordering| match (one, other) {
        (Some(one), Some(other)) => Some(if compare(one, other) == Some(wanted) { one } else { other }.clone()),
        (one, other) => one.clone().or_else(|| other.clone()),
    };
    let mut narrowed = described.clone();
    narrowed.restart_required |= rule.restart_required;
    narrowed.min = tighter(&rule.min, &described.min, Ordering::Greater);
    narrowed.max = tighter(&rule.max, &described.max, Ordering::Less);
    narrowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_bounds_the_narrower_one_counts() {
        let mut described = Parameter::new("limit", ParameterType::Integer);
        (described.min, described.max) = (Some(1.into()), Some(100.into()));
        let rule = |hidden, min: Option<i64>, max: Option<i64>| ParameterRule {
            name: "limit".to_owned(),
            hidden,
            restart_required: true,
            min: min.map(Into::into),
            max: max.map(Into::into),
        };
        let bounds = |rule| {
            let narrowed = narrowed(&described, &rule);
            (narrowed.min.unwrap().as_i64(), narrowed.max.unwrap().as_i64(), narrowed.restart_required)
        };
        assert_eq!(bounds(rule(false, Some(5), Some(50))), (Some(5), Some(50), true));
        assert_eq!(bounds(rule(false, Some(-5), Some(500))), (Some(1), Some(100), true));
        assert_eq!(bounds(rule(false, None, None)), (Some(1), Some(100), true));
        assert!(ruled(&[described.clone()], &[rule(true, None, None)]).is_empty());
        let other = ParameterRule { name: "other".to_owned(), ..rule(true, None, None) };
        assert_eq!(ruled(&[described.clone()], &[other]), [described.clone()]);
    }
}
