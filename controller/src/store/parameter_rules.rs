//! Rows of what administrators say of parameters.

use serde_json::Number;

use super::Store;
use super::instances::rows::{column, json, maybe_text};
use crate::error::{Error, Result};
use crate::ids::VersionId;
use crate::model::configurations::ParameterRule;
use crate::store::sql::{Connection, Row, Target, query};

impl Store {
    /// The rules of a version, by name.
    pub async fn parameter_rules<'a>(
        &self,
        target: impl Into<Target<'a>>,
        version: VersionId,
    ) -> Result<Vec<ParameterRule>> {
        let rows = query(
            "select name, hidden, restart_required, min, max from parameter_rule where version_id = $1 order by name",
        )
        .bind(version.to_string())
        .fetch_all(target)
        .await
        .map_err(|error| Error::internal(format!("read the parameter rules of version {version}"), error))?;
        rows.iter().map(rule).collect()
    }

    /// Writes a rule, in place of the one that was there.
    pub async fn put_parameter_rule(
        &self,
        conn: &mut Connection,
        version: VersionId,
        rule: &ParameterRule,
    ) -> Result<()> {
        let text = |number: &Option<Number>| number.as_ref().map(Number::to_string);
        query(
            "insert into parameter_rule (version_id, name, hidden, restart_required, min, max) \
             values ($1, $2, $3, $4, $5, $6) on conflict (version_id, name) do update set hidden = excluded.hidden, \
             restart_required = excluded.restart_required, min = excluded.min, max = excluded.max",
        )
        .bind(version.to_string())
        .bind(&rule.name)
        .bind(rule.hidden)
        .bind(rule.restart_required)
        .bind(text(&rule.min))
        .bind(text(&rule.max))
        .execute(conn)
        .await
        .map_err(|error| Error::internal(format!("write the rule of the parameter {}", rule.name), error))?;
        Ok(())
    }
}

fn rule(row: &Row) -> Result<ParameterRule> {
    Ok(ParameterRule {
        name: column(row, "name")?,
        hidden: column(row, "hidden")?,
        restart_required: column(row, "restart_required")?,
        min: number(row, "min")?,
        max: number(row, "max")?,
    })
}

fn number(row: &Row, name: &'static str) -> Result<Option<Number>> {
    if maybe_text(row, name)?.is_none() { Ok(None) } else { json(row, name).map(Some) }
}
