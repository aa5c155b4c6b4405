//! Checks dependencies between crates and folders, and some other rules of the source.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

fn sources(directory: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| format!("read {}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path)?;
                found.push((path, text));
            }
        }
    }
    ensure!(!found.is_empty(), "no sources in {}", directory.display());
    Ok(found)
}

/// Workspace crates among the normal dependencies of a crate.
fn own_dependencies(manifest: &str) -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(root().join(manifest))?;
    let normal = text.split("[dependencies]").nth(1).context("dependencies")?;
    let normal = normal.split("\n[").next().unwrap_or_default();
    let names = normal.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
    Ok(names.filter(|name| name.starts_with("trove-")).map(str::to_owned).collect())
}

#[test]
fn crates_depend_downwards_only() -> Result<()> {
    let expected = [
        ("proto/Cargo.toml", vec![]),
        ("strategies/core/Cargo.toml", vec![]),
        ("strategies/conformance/Cargo.toml", vec!["trove-strategy"]),
        ("strategies/mongodb/Cargo.toml", vec!["trove-strategy"]),
        ("strategies/postgresql/Cargo.toml", vec!["trove-strategy"]),
        ("strategies/redis/Cargo.toml", vec!["trove-strategy"]),
        ("strategies/mysql/Cargo.toml", vec!["trove-strategy"]),
        ("strategies/examples/memcached/Cargo.toml", vec!["trove-strategy"]),
        (
            "agent/Cargo.toml",
            vec!["trove-mongodb", "trove-mysql", "trove-postgresql", "trove-proto", "trove-redis", "trove-strategy"],
        ),
        ("controller/Cargo.toml", vec!["trove-proto", "trove-strategy"]),
        ("controller/cli/Cargo.toml", vec![]),
        ("tests/Cargo.toml", vec![]),
    ];
    for (manifest, names) in expected {
        let names: BTreeSet<String> = names.into_iter().map(str::to_owned).collect();
        assert_eq!(own_dependencies(manifest)?, names, "{manifest}");
    }
    Ok(())
}

#[test]
fn no_engine_is_named_above_its_strategy() -> Result<()> {
    let engines = ["postgres", "mysql", "mariadb", "redis", "valkey", "mongo", "psql"];
    let mut wrong = Vec::new();
    for directory in ["controller/src", "controller/cli/src", "agent/src", "proto/src", "strategies/core/src"] {
        for (path, text) in sources(&root().join(directory))? {
            if path.ends_with("agent/src/main.rs") || is_test_file(&path) {
                continue;
            }
            // Examples in comments and in tests may name one.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for (number, line) in code.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default().to_lowercase();
                // The controller's own database may be named where it is opened and configured.
                let own = path.starts_with(root().join("controller/src/store"))
                    || path.ends_with("controller/src/config/documented.rs");
                if own && (code.contains("sqlx::postgres") || code.contains("postgres:")) {
                    continue;
                }
                if engines.iter().any(|engine| code.contains(engine)) {
                    wrong.push(format!("{}:{}: {line}", path.display(), number + 1));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "an engine is named:\n{}", wrong.join("\n"));
    Ok(())
}

fn is_test_file(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests" || stem == "simulated")
        || path
            .strip_prefix(root())
            .unwrap_or(path)
            .components()
            .any(|part| ["tests", "testing", "simulation"].iter().any(|name| part.as_os_str() == *name))
}

/// Folders and files of the controller, each with those that it may use. In addition all may use [`WORDS`].
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["admin", "config", "serve"]),
    ("admin", &["config", "serve", "store", "directory", "authority", "identity", "register", "compute"]),
    (
        "serve",
        &[
            "api",
            "app",
            "agents",
            "authority",
            "compute",
            "config",
            "connections",
            "identity",
            "listen",
            "logs",
            "monitor",
            "objects",
            "operations",
            "reconcile",
            "register",
            "directory",
            "store",
        ],
    ),
    ("listen", &["compute"]),
    ("logs", &["store", "agents", "objects", "config"]),
    ("monitor", &["store", "agents", "connections", "objects"]),
    ("api", &["app", "identity", "config", "directory"]),
    ("app", &["store", "operations", "agents", "objects", "compute", "identity", "register", "config"]),
    ("register", &["store", "config"]),
    ("reconcile", &["operations", "store", "agents", "objects", "compute", "authority", "config"]),
    ("operations", &["store", "agents", "objects", "compute", "authority", "config", "seal"]),
    ("objects", &["agents", "config", "connections", "seal"]),
    ("agents", &["store", "authority", "config", "connections"]),
    ("compute", &["config"]),
    ("identity", &["store", "config", "connections"]),
    ("connections", &[]),
    ("authority", &["store"]),
    ("store", &["seal", "config"]),
    ("directory", &["store", "seal", "config"]),
    ("config", &[]),
    ("seal", &[]),
];

/// Modules that all may use: types without behaviour.
const WORDS: &[&str] = &["error", "ids", "model", "signals", "state"];

#[test]
fn arrows_in_the_controller_point_down() -> Result<()> {
    let source = root().join("controller/src");
    let mut wrong = Vec::new();
    for (path, text) in sources(&source)? {
        let relative = path.strip_prefix(&source)?;
        let room = relative.components().next().context("room")?.as_os_str().to_string_lossy().replace(".rs", "");
        if room == "lib" || WORDS.contains(&room.as_str()) || is_test_file(&path) {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}: the room {room} is not in the plan", relative.display()));
            continue;
        };
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for used in rooms_used(code) {
            if used != room && !allowed.contains(&used.as_str()) && !WORDS.contains(&used.as_str()) {
                wrong.push(format!("{}: {room} uses {used}", relative.display()));
            }
        }
    }
    wrong.sort();
    ensure!(wrong.is_empty(), "arrows that the plan does not have:\n{}", wrong.join("\n"));
    Ok(())
}

/// The first path segments after `crate::` (or the crate's name, in main.rs), without those in comments.
fn rooms_used(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for line in code.lines().map(|line| line.split("//").next().unwrap_or_default()) {
        for start in ["crate::", "trove_controller::"] {
            for (at, _) in line.match_indices(start) {
                let rest = &line[at + start.len()..];
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                rooms.insert(name);
            }
        }
    }
    rooms.remove("");
    rooms
}

/// The functions of a file, each as the text from its `fn` to the next.
fn functions(code: &str) -> impl Iterator<Item = &str> {
    code.split("\npub(super) ").flat_map(|part| part.split("\nfn ")).flat_map(|part| part.split("\nasync fn "))
}

fn name(function: &str) -> &str {
    function.split('(').next().unwrap_or_default().rsplit(' ').next().unwrap_or_default()
}

#[test]
fn every_handler_asks_for_a_rule_that_there_is() -> Result<()> {
    let source = root().join("controller/src");
    let rules = std::fs::read_to_string(source.join("identity/policy/rules.rs"))?;
    let (mut wrong, mut asked) = (Vec::new(), 0);
    for (path, text) in sources(&source.join("api"))? {
        if is_test_file(&path) || path.ends_with("api/http/unbuilt.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let asking: Vec<&str> = functions(code).filter(|function| function.contains(".may(")).map(name).collect();
        for function in functions(code).filter(|function| function.contains("thorized")) {
            // Either in the function itself, or in another function of the file that it calls.
            let asks = function.contains("Administrator")
                || asking.iter().any(|asking| *asking == name(function) || function.contains(&format!("{asking}(")));
            if !asks && function.contains(": Authorized") {
                wrong.push(format!("{}: {} asks for no rule", path.display(), name(function)));
            }
            for call in function.split(".may(").skip(1) {
                let call = call.split(")?").next().unwrap_or_default();
                for rule in call.split('"').skip(1).step_by(2) {
                    asked += 1;
                    if !rules.contains(&format!("\"{rule}\"")) {
                        wrong.push(format!("{}: there is no rule {rule} in identity/policy/rules.rs", path.display()));
                    }
                }
            }
        }
    }
    ensure!(asked > 20, "the handlers were not found");
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn sql_stands_in_the_store_and_http_in_the_api() -> Result<()> {
    let source = root().join("controller/src");
    let mut wrong = Vec::new();
    for (path, text) in sources(&source)? {
        let relative = path.strip_prefix(&source)?.to_string_lossy().into_owned();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        if code.contains("sqlx::query") && !relative.starts_with("store/") && !is_test_file(&path) {
            wrong.push(format!("{relative} has SQL"));
        }
        let http = ["api/", "connections/", "identity/builtin", "monitor/", "serve"]
            .iter()
            .any(|room| relative.starts_with(room));
        if code.contains("axum::") && !http && !is_test_file(&path) {
            wrong.push(format!("{relative} has HTTP"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
