//! With what an agent is let in by the controllers: its certificate, or a token to get one. Drivers on whose machine the
//! directory of the host lies look for both there.

use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};
use trove_strategy::beneath::Dir;
use trove_strategy::process::if_there;

use super::ComputeError;
use super::disk::{failed, write};

/// Its files, below the directory of a host. In a guest its root can change what is around them.
pub(super) struct Enrolment {
    /// The agent's key and certificate. The agent renames a damaged file.
    pub(super) identity: &'static str,
    /// Token with which the agent gets its first certificate.
    pub(super) token: &'static str,
}

impl Enrolment {
    /// Whether the agent has a certificate, or a token to get one.
    pub(super) fn can_enter(&self, directory: &Path) -> Result<bool, ComputeError> {
        Ok(is_there(directory, self.identity)? || is_there(directory, self.token)?)
    }

    /// Writes the token, unless the agent has enrolled: such a one needs none, and would not remove the file.
    pub(super) fn write_token(&self, directory: &Path, token: Option<&SecretString>) -> Result<(), ComputeError> {
        match token {
            Some(token) if !is_there(directory, self.identity)? => {
                write(&directory.join(self.token), token.expose_secret().as_bytes())
            }
            _ => Ok(()),
        }
    }
}

/// Whether there is a file below the directory of a host. No link is followed to it.
fn is_there(directory: &Path, below: &str) -> Result<bool, ComputeError> {
    let looked = if_there(Dir::open(directory, &[]));
    let looked = looked.and_then(|host| host.map_or(Ok(false), |host| host.exists(Path::new(below))));
    looked.map_err(failed("look for", &directory.join(below)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const ENROLMENT: Enrolment = Enrolment { identity: "state/identity.pem", token: "token" };

    #[test]
    fn an_agent_enters_with_a_certificate_or_a_token_and_is_given_none_once_it_has_enrolled() {
        let host = tempfile::tempdir().unwrap();
        let token = SecretString::from("sesame");
        let can_enter = || ENROLMENT.can_enter(host.path()).unwrap();
        assert!(!can_enter());
        ENROLMENT.write_token(host.path(), None).unwrap();
        assert!(!can_enter());
        ENROLMENT.write_token(host.path(), Some(&token)).unwrap();
        assert_eq!(fs::read_to_string(host.path().join("token")).unwrap(), "sesame");
        assert!(can_enter());
        fs::create_dir(host.path().join("state")).unwrap();
        fs::rename(host.path().join("token"), host.path().join("state/identity.pem")).unwrap();
        ENROLMENT.write_token(host.path(), Some(&token)).unwrap();
        assert!(can_enter() && !host.path().join("token").exists());
        assert!(!ENROLMENT.can_enter(&host.path().join("none")).unwrap(), "there is no host");
    }

    /// Root of a guest can make them; what they lead to is the machine's.
    #[test]
    fn no_link_on_the_way_to_a_certificate_is_followed() {
        let (host, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("identity.pem"), "another's").unwrap();
        symlink(other.path(), host.path().join("state")).unwrap();
        assert!(!ENROLMENT.can_enter(host.path()).unwrap(), "the directory is a link");
        fs::remove_file(host.path().join("state")).unwrap();
        fs::create_dir(host.path().join("state")).unwrap();
        for target in [other.path().join("identity.pem"), other.path().join("none")] {
            let file = host.path().join("state/identity.pem");
            symlink(target, &file).unwrap();
            assert!(ENROLMENT.can_enter(host.path()).unwrap(), "the answer does not depend on what it leads to");
            fs::remove_file(file).unwrap();
        }
    }
}
