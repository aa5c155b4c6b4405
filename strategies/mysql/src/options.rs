//! What the server program says of its options, whether a server runs or not.

use std::collections::BTreeMap;

use trove_strategy::{Command, HostError, Site};

use crate::Flavour;

/// Every option by the name of its variable, with the value that it has by itself or is given here.
pub(crate) async fn ask(
    flavour: Flavour,
    site: &Site,
    given: &[(String, String)],
) -> Result<BTreeMap<String, String>, HostError> {
    let mut command = Command::engine(flavour.program(site)).arg("--no-defaults");
    for (name, value) in given {
        command = command.arg(format!("--{name}={value}"));
    }
    let said = site.host.run(command.arg("--help").arg("--verbose")).await?;
    Ok(listed(&said.stdout))
}

/// The table at the end of what it says.
pub(crate) fn listed(said: &str) -> BTreeMap<String, String> {
    let table = said.split_once("\n---").map_or("", |(_, table)| table).lines().skip(1);
    let option = |line: &str| {
        let (name, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let value = match value.trim() {
            "(No default value)" => "",
            "TRUE" => "ON",
            "FALSE" => "OFF",
            value => value,
        };
        (name.replace('-', "_"), value.to_owned())
    };
    table.take_while(|line| !line.trim().is_empty()).map(option).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_their_variables_are_written() {
        let said = "text\n--------- ------\nmax-connections    151\nsql-mode     \nauto-commit  TRUE\nbasedir  \
                    (No default value)\nlog-error   /a b\n\nTo see more\n";
        let expected = [
            ("auto_commit", "ON"),
            ("basedir", ""),
            ("log_error", "/a b"),
            ("max_connections", "151"),
            ("sql_mode", ""),
        ];
        let listed = listed(said);
        assert_eq!(listed.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>(), expected);
    }
}
