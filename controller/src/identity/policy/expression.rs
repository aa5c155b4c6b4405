//! The rule language of oslo.policy: `role:x`, `rule:x`, `is_admin:True`, `project_id:%(project_id)s`, `@`, `!`, joined
//! by `not`, `and`, `or` and parentheses. Unknown checks are errors here; oslo.policy evaluates them to false.

use crate::identity::Caller;
use crate::ids::ProjectId;

/// Greatest nesting of parentheses and `not`.
const DEPTH: usize = 32;

/// A parsed rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    Always,
    Never,
    Not(Box<Self>),
    All(Vec<Self>),
    Any(Vec<Self>),
    Role(String),
    Rule(String),
    IsAdmin(bool),
    /// The caller's project is that of the target.
    OwnProject,
    /// The caller's project is this one.
    Project(String),
    /// The caller is this user.
    User(String),
}

/// Input of an evaluation.
pub(super) struct Question<'a> {
    pub(super) caller: &'a Caller,
    /// Project of the target.
    pub(super) project: &'a ProjectId,
}

impl Expression {
    /// Parses an expression. The empty text is always true.
    ///
    /// # Errors
    /// What is not understood: a sentence without full stop.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let words = words(text);
        if words.is_empty() {
            return Ok(Self::Always);
        }
        let mut parser = Parser { words: &words, depth: 0 };
        let whole = parser.any()?;
        match parser.words.first() {
            None => Ok(whole),
            Some(rest) => Err(format!("{rest:?} stands where and, or, or the end was expected")),
        }
    }

    /// Evaluates the expression. `rule` looks another rule up; cycles were refused when the policy was loaded.
    pub(super) fn is_true<'a>(&self, asked: &Question<'_>, rule: &impl Fn(&str) -> Option<&'a Self>) -> bool {
        let caller = asked.caller;
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Not(inner) => !inner.is_true(asked, rule),
            Self::All(parts) => parts.iter().all(|part| part.is_true(asked, rule)),
            Self::Any(parts) => parts.iter().any(|part| part.is_true(asked, rule)),
            Self::Role(role) => caller.roles.iter().any(|own| own.eq_ignore_ascii_case(role)),
            Self::Rule(name) => rule(name).is_some_and(|other| other.is_true(asked, rule)),
            Self::IsAdmin(wanted) => caller.is_admin() == *wanted,
            Self::OwnProject => caller.project == *asked.project,
            Self::Project(id) => caller.project.0 == *id,
            Self::User(id) => caller.user_id == *id,
        }
    }

    /// Names of the rules to which it refers.
    pub(super) fn rules(&self) -> Vec<&str> {
        match self {
            Self::Not(inner) => inner.rules(),
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(Self::rules).collect(),
            Self::Rule(name) => vec![name],
            _ => Vec::new(),
        }
    }
}

/// Splits at blanks and parentheses, except those in `%(name)s`.
fn words(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = match rest.chars().next() {
            Some('(' | ')') => 1,
            _ => word_end(rest),
        };
        let (word, after) = rest.split_at(end);
        found.push(word);
        rest = after.trim_start();
    }
    found
}

fn word_end(text: &str) -> usize {
    let mut substitution = false;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '(' if before == '%' => substitution = true,
            ')' if substitution => substitution = false,
            '(' | ')' => return at,
            c if c.is_whitespace() => return at,
            _ => {}
        }
        before = c;
    }
    text.len()
}

struct Parser<'a> {
    words: &'a [&'a str],
    depth: usize,
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    fn takes(&mut self, word: &str) -> bool {
        let is = self.words.first().is_some_and(|next| next.eq_ignore_ascii_case(word));
        if is {
            self.next();
        }
        is
    }

    fn any(&mut self) -> Result<Expression, String> {
        let mut parts = vec![self.all()?];
        while self.takes("or") {
            parts.push(self.all()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expression::Any(parts) })
    }

    fn all(&mut self) -> Result<Expression, String> {
        let mut parts = vec![self.one()?];
        while self.takes("and") {
            parts.push(self.one()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expression::All(parts) })
    }

    fn one(&mut self) -> Result<Expression, String> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(format!("more than {DEPTH} parentheses or nots stand within each other"));
        }
        let found = self.nested();
        self.depth -= 1;
        found
    }

    fn nested(&mut self) -> Result<Expression, String> {
        if self.takes("not") {
            return Ok(Expression::Not(Box::new(self.one()?)));
        }
        let word = self.next().ok_or("it ends where a check was expected")?;
        if word == "(" {
            let inner = self.any()?;
            return if self.takes(")") { Ok(inner) } else { Err("a parenthesis is not closed".to_owned()) };
        }
        check(word)
    }
}

fn check(word: &str) -> Result<Expression, String> {
    match word {
        "@" => return Ok(Expression::Always),
        "!" => return Ok(Expression::Never),
        _ => {}
    }
    let unknown = || format!("{word:?} is no check: there are role:, rule:, is_admin:, project_id:, user_id:, @ and !");
    let (kind, value) = word.split_once(':').ok_or_else(unknown)?;
    if value.is_empty() {
        return Err(format!("{word:?} has nothing after its colon"));
    }
    let target = matches!(value, "%(project_id)s" | "%(tenant)s" | "%(tenant_id)s");
    if value.contains("%(") && !(target && matches!(kind, "project_id" | "tenant" | "tenant_id")) {
        return Err(format!(
            "{word:?} asks for something that a target does not have: there is project_id:%(project_id)s"
        ));
    }
    Ok(match kind {
        "role" => Expression::Role(value.to_owned()),
        "rule" => Expression::Rule(value.to_owned()),
        "is_admin" => match value.to_ascii_lowercase().as_str() {
            "true" | "1" => Expression::IsAdmin(true),
            "false" | "0" => Expression::IsAdmin(false),
            _ => return Err(format!("{word:?} must be is_admin:True or is_admin:False")),
        },
        "project_id" | "tenant" | "tenant_id" if target => Expression::OwnProject,
        "project_id" | "tenant" | "tenant_id" => Expression::Project(value.to_owned()),
        "user_id" => Expression::User(value.to_owned()),
        _ => return Err(unknown()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passes(text: &str, roles: &[&str], project: &str) -> bool {
        let roles: Vec<String> = roles.iter().map(|role| (*role).to_owned()).collect();
        let admin = roles.iter().any(|role| role == "admin");
        let caller = Caller { user_id: "u".into(), project: ProjectId("p".into()), roles, admin };
        let project = ProjectId(project.to_owned());
        let asked = Question { caller: &caller, project: &project };
        let member = Expression::Role("member".to_owned());
        Expression::parse(text).unwrap().is_true(&asked, &|name| (name == "member").then_some(&member))
    }

    #[test]
    fn expressions_mean_what_oslo_policy_says() {
        for (text, roles, project, expected) in [
            ("", &[][..], "q", true),
            ("@", &[], "q", true),
            ("!", &["admin"], "p", false),
            ("role:member", &["Member"], "q", true),
            ("role:member", &["reader"], "p", false),
            ("not role:member", &["reader"], "p", true),
            ("rule:member", &["member"], "p", true),
            ("rule:nobody", &["member"], "p", false),
            ("is_admin:True", &["admin"], "q", true),
            ("is_admin:True", &["member"], "p", false),
            ("is_admin:False", &["member"], "p", true),
            ("project_id:%(project_id)s", &[], "p", true),
            ("tenant:%(tenant)s", &[], "q", false),
            ("project_id:p", &[], "q", true),
            ("user_id:u", &[], "q", true),
            ("user_id:v", &[], "q", false),
            // "and" binds more tightly than "or".
            ("role:a or role:b and role:c", &["a"], "p", true),
            ("(role:a or role:b) and role:c", &["a"], "p", false),
            ("(role:a or role:b) AND (role:c)", &["b", "c"], "p", true),
            ("role:member and (project_id:%(project_id)s)", &["member"], "p", true),
            ("not (role:a or role:b) and not role:c", &["d"], "p", true),
            ("not not role:a", &["a"], "p", true),
        ] {
            assert_eq!(passes(text, roles, project), expected, "{text} by {roles:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (text, said) in [
            ("role:", "nothing after its colon"),
            ("member", "is no check"),
            ("http://example.org/check", "is no check"),
            ("role:a and", "ends where"),
            ("or role:a", "is no check"),
            ("role:a role:b", "\"role:b\" stands where"),
            ("(role:a", "not closed"),
            ("role:a)", "\")\" stands where"),
            ("is_admin:maybe", "is_admin:True"),
            ("user_id:%(user_id)s", "does not have"),
            ("role:%(project_id)s", "does not have"),
            ("project_id:%(owner)s", "does not have"),
        ] {
            let error = Expression::parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        let deep = "(".repeat(10_000);
        assert!(Expression::parse(&deep).unwrap_err().contains("within each other"));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "[ ()!@%:a-z]{0,40}") {
            let _ = Expression::parse(&text);
        }
    }
}
