//! The policy: Trove's rules, each with an expression. A policy file overrides the defaults.

#![allow(clippy::disallowed_methods, reason = "a file that the operator names")]

mod expression;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use expression::{Expression, Question};
use serde_json::{Map, Value};

use super::Caller;
use crate::error::{Error, Result};
use crate::ids::ProjectId;

/// The rule that decides who is an administrator.
const CONTEXT_IS_ADMIN: &str = "context_is_admin";
/// The rule that is used for undefined ones.
const DEFAULT: &str = "default";

/// The rules in force.
#[derive(Debug)]
pub struct Policy {
    rules: BTreeMap<String, Expression>,
}

impl Policy {
    /// Loads the default rules, overridden by those of a policy file: YAML, or JSON if its name ends in `.json`. Logs a
    /// warning for unknown rule names, which are probably typos.
    ///
    /// # Errors
    /// 400 with the file, the line or rule, and the reason.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let mut policy = Self { rules: BTreeMap::new() };
        for (name, text) in rules::defaults() {
            let parsed = Expression::parse(text);
            let parsed =
                parsed.map_err(|reason| Error::BadRequest(format!("The default of {name} is wrong: {reason}.")))?;
            policy.rules.insert(name.to_owned(), parsed);
        }
        if let Some(file) = file {
            for name in policy.override_from(file)? {
                tracing::warn!(file = %file.display(), rule = name, "the policy file has a rule that nothing asks for");
            }
        }
        Ok(policy)
    }

    /// Applies a policy file. Returns the unknown rule names.
    fn override_from(&mut self, file: &Path) -> Result<Vec<String>> {
        let refuse = |reason: String| Error::BadRequest(format!("The policy file {}: {reason}.", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| refuse(format!("cannot be read: {error}")))?;
        let own = read(file, &text).map_err(refuse)?;
        let known: BTreeSet<String> = self.rules.keys().cloned().collect();
        for (name, value) in &own {
            let said = |reason: String| refuse(format!("{}rule {name:?}: {reason}", line(&text, name)));
            let rule = value.as_str().ok_or_else(|| said("it must be a text, such as \"role:admin\"".to_owned()))?;
            self.rules.insert(name.clone(), Expression::parse(rule).map_err(said)?);
        }
        for name in own.keys() {
            let said = |reason: String| refuse(format!("{}rule {name:?}: {reason}", line(&text, name)));
            self.follow(name, &mut Vec::new()).map_err(said)?;
        }
        let referred: BTreeSet<&str> = self.rules.values().flat_map(Expression::rules).collect();
        let idle = own.keys().filter(|name| !known.contains(*name) && !referred.contains(name.as_str()));
        Ok(idle.cloned().collect())
    }

    /// Refuses references to undefined rules, and cycles.
    fn follow(&self, name: &str, above: &mut Vec<String>) -> std::result::Result<(), String> {
        if above.iter().any(|rule| rule == name) {
            return Err(format!("it refers to itself: {} -> {name}", above.join(" -> ")));
        }
        let Some(expression) = self.rules.get(name) else { return Err(format!("there is no rule {name:?}")) };
        above.push(name.to_owned());
        for next in expression.rules() {
            self.follow(next, above)?;
        }
        above.pop();
        Ok(())
    }

    /// Checks whether a rule allows the caller to act on a resource of the project.
    ///
    /// # Errors
    /// 403.
    pub fn check(&self, rule: &str, caller: &Caller, project: &ProjectId) -> Result<()> {
        let passes = self.passes(rule, &Question { caller, project });
        if passes { Ok(()) } else { Err(Error::Forbidden(format!("Policy does not allow {rule} to be performed."))) }
    }

    fn passes(&self, rule: &str, question: &Question<'_>) -> bool {
        let find = |name: &str| self.rules.get(name);
        find(rule).or_else(|| find(DEFAULT)).is_some_and(|expression| expression.is_true(question, &find))
    }

    /// Sets [`Caller::admin`] if the rule `context_is_admin` holds.
    pub(super) fn with_context(&self, mut caller: Caller) -> Caller {
        caller.admin = self.passes(CONTEXT_IS_ADMIN, &Question { caller: &caller, project: &caller.project });
        caller
    }
}

/// Reads the rules of a file by name; the error says why it has none.
fn read(file: &Path, text: &str) -> std::result::Result<Map<String, Value>, String> {
    let value: Value = if file.extension().is_some_and(|extension| extension == "json") {
        serde_json::from_str(text).map_err(|error| error.to_string())?
    } else {
        // Parse into a YAML value first, since that refuses duplicate keys.
        let value: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
        serde_json::to_value(value).map_err(|error| error.to_string())?
    };
    match value {
        Value::Object(rules) => Ok(rules),
        // Every rule of the file is commented out, as in generated samples.
        Value::Null => Ok(Map::new()),
        _ => Err("it must be a map from rules to expressions".to_owned()),
    }
}

/// The text `line 3, ` for the line of a rule, if found.
fn line(text: &str, name: &str) -> String {
    let starts = |line: &str| {
        let rest = line.trim_start_matches([' ', '\t', '{', '"', '\'']).strip_prefix(name);
        rest.is_some_and(|rest| rest.trim_start_matches(['"', '\'', ' ']).starts_with(':'))
    };
    text.lines().position(starts).map_or_else(String::new, |at| format!("line {}, ", at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(role: &str) -> Caller {
        Caller { user_id: "u".into(), project: ProjectId("p".into()), roles: vec![role.into()], admin: false }
    }

    fn file(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join(name);
        std::fs::write(&path, text).unwrap();
        (scratch, path)
    }

    fn with(name: &str, text: &str) -> Result<Policy> {
        let (_scratch, path) = file(name, text);
        Policy::load(Some(&path))
    }

    fn may(policy: &Policy, rule: &str, role: &str, project: &str) -> bool {
        policy.check(rule, &policy.with_context(caller(role)), &ProjectId(project.to_owned())).is_ok()
    }

    #[test]
    fn each_role_may_what_the_table_says() {
        let policy = Policy::load(None).unwrap();
        for (rule, role, project, passes) in [
            ("instance:create", "member", "p", true),
            ("instance:create", "member", "q", false),
            ("instance:create", "reader", "p", false),
            ("instance:index", "reader", "p", true),
            ("instance:index", "reader", "q", false),
            ("instance:extension:user:show", "reader", "p", true),
            ("instance:extension:user:create", "reader", "p", false),
            ("instance:show", "stranger", "p", false),
            ("instance:reset_status", "member", "p", false),
            ("backup:index:all_projects", "member", "p", false),
            ("instance:reset_status", "admin", "q", true),
            ("flavor:index", "stranger", "q", true),
            ("something:new", "member", "p", true),
            ("something:new", "reader", "p", false),
        ] {
            assert_eq!(may(&policy, rule, role, project), passes, "{rule} by {role}");
        }
        for name in policy.rules.keys() {
            policy.follow(name, &mut Vec::new()).unwrap();
        }
    }

    #[test]
    fn a_file_overrides_single_rules_in_yaml_and_json() {
        let yaml = "# ours\ncontext_is_admin: role:dba\noperators: role:operator\ninstance:create: 'rule:operators'\n\"instance:delete\": \"!\"\n";
        let json = "{\"context_is_admin\": \"role:dba\", \"operators\": \"role:operator\",\n \"instance:create\": \"rule:operators\", \"instance:delete\": \"!\"}";
        for policy in [with("policy.yaml", yaml).unwrap(), with("policy.json", json).unwrap()] {
            assert!(may(&policy, "instance:create", "operator", "p"));
            assert!(!may(&policy, "instance:create", "member", "p"));
            assert!(!may(&policy, "instance:delete", "dba", "p"));
            assert!(may(&policy, "instance:reset_status", "dba", "q"));
            assert!(!may(&policy, "instance:reset_status", "admin", "p"));
            assert!(may(&policy, "instance:restart", "member", "p"), "the others stay");
        }
        assert!(with("policy.yaml", "# nothing but this\n").is_ok());
    }

    #[test]
    fn a_wrong_file_is_refused_with_its_place_and_reason() {
        for (text, said) in [
            ("a: role:x\ninstance:create: role:x and\n", "line 2, rule \"instance:create\": it ends"),
            ("instance:create: rule:nobody\n", "line 1, rule \"instance:create\": there is no rule \"nobody\""),
            ("a: rule:b\nb: not rule:a\n", "it refers to itself: a -> b -> a"),
            ("instance:create: [role:x]\n", "must be a text"),
            ("- role:x\n", "must be a map"),
            ("a: role:x\n b: : role:y\n", "line 2"),
            ("a: role:x\na: role:y\n", "duplicate"),
        ] {
            let error = with("policy.yaml", text).unwrap_err().to_string();
            assert!(error.contains("policy.yaml") && error.contains(said), "{text}: {error}");
        }
        let error = with("policy.json", "{\n\"a\": \"role:x\",\n}").unwrap_err().to_string();
        assert!(error.contains("line 3"), "{error}");
        assert!(
            Policy::load(Some(Path::new("/nonexistent/policy.yaml"))).unwrap_err().to_string().contains("/nonexistent")
        );
    }

    #[test]
    fn rules_that_nothing_asks_for_are_named() {
        let (_scratch, path) =
            file("policy.yaml", "instance:craete: '!'\nhelpers: role:x\ninstance:show: rule:helpers\n");
        let mut policy = Policy::load(None).unwrap();
        assert_eq!(policy.override_from(&path).unwrap(), ["instance:craete"]);
    }
}
