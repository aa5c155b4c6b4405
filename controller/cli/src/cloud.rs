//! Which cloud: a clouds.yaml, as openstacksdk reads it, and `OS_…` variables, which win.

use std::collections::BTreeMap;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

use crate::error::{Failure, Result};

/// What is needed to log in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cloud {
    /// Keystone's v3 address.
    pub(crate) auth_url: String,
    /// A token instead of a password.
    pub(crate) token: Option<SecretString>,
    pub(crate) username: String,
    pub(crate) password: SecretString,
    /// The project, by name or id.
    pub(crate) project_name: Option<String>,
    /// The project's id.
    pub(crate) project_id: Option<String>,
    /// Domain of the user, by name.
    pub(crate) user_domain: String,
    /// Domain of the project, by name.
    pub(crate) project_domain: String,
    /// The region of the catalog.
    pub(crate) region: Option<String>,
    /// Another authority to trust, PEM file.
    pub(crate) cacert: Option<PathBuf>,
    /// Whether the server's certificate is verified.
    pub(crate) verify: bool,
}

#[derive(Deserialize)]
struct File {
    clouds: BTreeMap<String, Entry>,
}

#[derive(Clone, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Auth,
    region_name: Option<String>,
    cacert: Option<PathBuf>,
    verify: Option<bool>,
}

#[derive(Clone, Default, Deserialize)]
struct Auth {
    auth_url: Option<String>,
    username: Option<String>,
    password: Option<SecretString>,
    token: Option<SecretString>,
    project_name: Option<String>,
    project_id: Option<String>,
    user_domain_name: Option<String>,
    user_domain_id: Option<String>,
    project_domain_name: Option<String>,
    project_domain_id: Option<String>,
}

/// The environment, so that tests can have another.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The cloud that is meant: `wanted` (`--os-cloud`), else `OS_CLOUD`, else the only one of the file, else variables
/// alone.
///
/// # Errors
/// None can be told, or something is missing: the sentence says what.
pub(crate) fn find(wanted: Option<&str>, env: Environment<'_>) -> Result<Cloud> {
    let wanted = wanted.map(str::to_owned).or_else(|| env("OS_CLOUD"));
    let known = match entry(wanted.as_deref(), env)? {
        Some(entry) => from_entry(entry),
        None => from_entry(Entry::default()),
    };
    let cloud = with_variables(known, env);
    let missing = if cloud.auth_url.is_empty() {
        "auth_url"
    } else if cloud.token.is_none() && cloud.username.is_empty() {
        "username"
    } else {
        return Ok(cloud);
    };
    Err(Failure::Usage(format!(
        "It is not known where to log in: {missing} is missing. Name a cloud with --os-cloud (its clouds.yaml with \
         OS_CLIENT_CONFIG_FILE), or set OS_AUTH_URL, OS_USERNAME, OS_PASSWORD and OS_PROJECT_NAME."
    )))
}

fn places(env: Environment<'_>) -> Vec<PathBuf> {
    if let Some(named) = env("OS_CLIENT_CONFIG_FILE") {
        return vec![named.into()];
    }
    let home = env("HOME").map(PathBuf::from).unwrap_or_default();
    let config = env("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
    vec!["clouds.yaml".into(), config.join("openstack/clouds.yaml"), "/etc/openstack/clouds.yaml".into()]
}

fn entry(wanted: Option<&str>, env: Environment<'_>) -> Result<Option<Entry>> {
    for path in places(env) {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && env("OS_CLIENT_CONFIG_FILE").is_none() => {
                continue;
            }
            Err(error) => return Err(Failure::Usage(format!("Read {}: {error}.", path.display()))),
        };
        let file: File = serde_yaml_ng::from_str(&text)
            .map_err(|error| Failure::Usage(format!("{} is no clouds file: {error}.", path.display())))?;
        let mut names: Vec<&String> = file.clouds.keys().collect();
        let Some(wanted) = wanted else {
            let only = if names.len() == 1 { names.pop() } else { None };
            return match only {
                Some(name) => Ok(file.clouds.get(name).cloned()),
                None if env("OS_AUTH_URL").is_some() => Ok(None),
                None => Err(Failure::Usage(format!(
                    "{} has several clouds: name one with --os-cloud or OS_CLOUD: {}.",
                    path.display(),
                    names.into_iter().cloned().collect::<Vec<_>>().join(", ")
                ))),
            };
        };
        return match file.clouds.get(wanted) {
            Some(entry) => Ok(Some(entry.clone())),
            None => Err(Failure::Usage(format!(
                "{} has no cloud {wanted}. It has: {}.",
                path.display(),
                names.into_iter().cloned().collect::<Vec<_>>().join(", ")
            ))),
        };
    }
    match wanted {
        Some(wanted) => Err(Failure::Usage(format!(
            "There is no clouds.yaml with a cloud {wanted}. Say where it is with OS_CLIENT_CONFIG_FILE."
        ))),
        None => Ok(None),
    }
}

fn from_entry(entry: Entry) -> Cloud {
    let Entry { auth, region_name, cacert, verify } = entry;
    let domain = |name: Option<String>, id: Option<String>| name.or(id).unwrap_or_else(|| "Default".to_owned());
    Cloud {
        auth_url: auth.auth_url.unwrap_or_default(),
        token: auth.token,
        username: auth.username.unwrap_or_default(),
        password: auth.password.unwrap_or_default(),
        project_name: auth.project_name,
        project_id: auth.project_id,
        user_domain: domain(auth.user_domain_name, auth.user_domain_id),
        project_domain: domain(auth.project_domain_name, auth.project_domain_id),
        region: region_name,
        cacert,
        verify: verify.unwrap_or(true),
    }
}

fn with_variables(mut cloud: Cloud, env: Environment<'_>) -> Cloud {
    let set = |field: &mut String, name: &str| {
        if let Some(value) = env(name).filter(|value| !value.is_empty()) {
            *field = value;
        }
    };
    set(&mut cloud.auth_url, "OS_AUTH_URL");
    set(&mut cloud.username, "OS_USERNAME");
    set(&mut cloud.user_domain, "OS_USER_DOMAIN_NAME");
    set(&mut cloud.project_domain, "OS_PROJECT_DOMAIN_NAME");
    cloud.password = env("OS_PASSWORD").map_or(cloud.password, SecretString::from);
    cloud.token = env("OS_TOKEN").map(SecretString::from).or(cloud.token);
    cloud.project_name = env("OS_PROJECT_NAME").or(cloud.project_name);
    cloud.project_id = env("OS_PROJECT_ID").or(cloud.project_id);
    cloud.region = env("OS_REGION_NAME").or(cloud.region);
    cloud.cacert = env("OS_CACERT").map(PathBuf::from).or(cloud.cacert);
    cloud
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    const TWO: &str = "clouds:\n  a:\n    auth: {auth_url: 'http://a/v3', username: u, password: p, project_name: q}\n    region_name: R\n  b:\n    auth: {auth_url: 'http://b/v3', username: u, password: p}\n";

    fn with(text: &str, wanted: Option<&str>, variables: &[(&str, &str)]) -> Result<Cloud> {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("clouds.yaml");
        std::fs::write(&path, text).unwrap();
        let file = path.to_string_lossy().into_owned();
        find(wanted, &|name| match name {
            "OS_CLIENT_CONFIG_FILE" => Some(file.clone()),
            other => variables.iter().find(|(n, _)| *n == other).map(|(_, value)| (*value).to_owned()),
        })
    }

    #[test]
    fn a_cloud_is_named_by_option_then_variable_then_being_alone() {
        assert_eq!(with(TWO, Some("a"), &[("OS_CLOUD", "b")]).unwrap().auth_url, "http://a/v3");
        assert_eq!(with(TWO, None, &[("OS_CLOUD", "b")]).unwrap().auth_url, "http://b/v3");
        let several = with(TWO, None, &[]).unwrap_err().to_string();
        assert!(several.contains("a, b") && several.contains("--os-cloud"), "{several}");
        let one = "clouds: {x: {auth: {auth_url: 'http://x', username: u}}}";
        assert_eq!(with(one, None, &[]).unwrap().auth_url, "http://x");
        assert!(with(TWO, Some("c"), &[]).unwrap_err().to_string().contains("no cloud c"));
    }

    #[test]
    fn variables_win_over_the_file() {
        let cloud = with(TWO, Some("a"), &[("OS_PASSWORD", "other"), ("OS_REGION_NAME", "S")]).unwrap();
        assert_eq!((cloud.password.expose_secret(), cloud.region.as_deref()), ("other", Some("S")));
        assert_eq!(cloud.project_name.as_deref(), Some("q"));
    }

    #[test]
    fn variables_alone_are_enough_and_missing_ones_are_named() {
        let all = [("OS_AUTH_URL", "http://k/v3"), ("OS_USERNAME", "u"), ("HOME", "/nonexistent")];
        let env = |name: &str| all.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        assert_eq!(find(None, &env).unwrap().auth_url, "http://k/v3");
        let none = |name: &str| (name == "HOME").then(|| "/nonexistent".to_owned());
        assert!(find(None, &none).unwrap_err().to_string().contains("auth_url is missing"));
    }
}
