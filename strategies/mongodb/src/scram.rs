//! The login of the agent's account: SCRAM-SHA-256 (RFC 5802, RFC 7677). Both sides show that they know the password, and
//! neither says it.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};
use secrecy::{ExposeSecret, SecretString};

/// No server asks for more rounds; who asked for very many could occupy the agent.
const MOST_ROUNDS: u32 = 1_000_000;

/// What follows from the password, a salt and a number of rounds, kept since it is dear.
#[derive(Clone)]
pub(crate) struct Salted {
    salt: Vec<u8>,
    rounds: u32,
    key: [u8; 32],
}

/// A login that has begun. The password is one of hexadecimal digits, which SASLprep leaves as it is.
pub(crate) struct Login {
    first: String,
    nonce: String,
    /// What the server has yet to show.
    signature: Option<(hmac::Key, String)>,
}

impl Login {
    /// With a nonce that was never used.
    pub(crate) fn new(user: &str, nonce: String) -> Self {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Self { first: format!("n={user},r={nonce}"), nonce, signature: None }
    }

    /// The first message.
    pub(crate) fn first(&self) -> String {
        format!("n,,{}", self.first)
    }

    /// The second, after what the server answered. `None` when that is no answer to the first.
    pub(crate) fn second(
        &mut self,
        answer: &str,
        password: &SecretString,
        kept: &mut Option<Salted>,
    ) -> Option<String> {
        let field = |name: &str| answer.split(',').find_map(|field| field.strip_prefix(name));
        let nonce = field("r=").filter(|nonce| nonce.starts_with(&self.nonce) && nonce.len() > self.nonce.len())?;
        let salt = STANDARD.decode(field("s=")?).ok()?;
        let rounds = field("i=")?.parse().ok().filter(|rounds| (4096..=MOST_ROUNDS).contains(rounds))?;
        if !kept.as_ref().is_some_and(|kept| kept.salt == salt && kept.rounds == rounds) {
            let mut key = [0; 32];
            let password = password.expose_secret().as_bytes();
            pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, NonZeroU32::new(rounds)?, &salt, password, &mut key);
            *kept = Some(Salted { salt, rounds, key });
        }
        let key = kept.as_ref()?.key;
        let without_proof = format!("c=biws,r={nonce}");
        let all = format!("{},{answer},{without_proof}", self.first);
        let client = mac(&key, b"Client Key");
        let stored = digest::digest(&digest::SHA256, client.as_ref());
        let signed = mac(stored.as_ref(), all.as_bytes());
        let proof: Vec<u8> = client.as_ref().iter().zip(signed.as_ref()).map(|(a, b)| a ^ b).collect();
        let server = hmac::Key::new(hmac::HMAC_SHA256, mac(&key, b"Server Key").as_ref());
        self.signature = Some((server, all));
        Some(format!("{without_proof},p={}", STANDARD.encode(proof)))
    }

    /// Whether the server has shown that it knows the password too.
    pub(crate) fn is_proved(&self, answer: &str) -> bool {
        let shown = answer.strip_prefix("v=").and_then(|shown| STANDARD.decode(shown).ok()).unwrap_or_default();
        self.signature.as_ref().is_some_and(|(key, text)| hmac::verify(key, text.as_bytes(), &shown).is_ok())
    }
}

fn mac(key: &[u8], text: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677, section 3.
    #[test]
    fn the_example_of_the_rfc() {
        let mut login = Login::new("user", "rOprNGfwEbeRWgbNEkqO".to_owned());
        assert_eq!(login.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let answer = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let second = login.second(answer, &SecretString::from("pencil"), &mut None).unwrap();
        assert_eq!(
            second,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert!(login.is_proved("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(!login.is_proved("v=") && !login.is_proved("e=invalid-proof"));
    }

    #[test]
    fn what_does_not_answer_the_first_message_is_refused() {
        let password = SecretString::from("pencil");
        for answer in
            ["r=abc,s=AAAA,i=4096", "r=other1,s=AAAA,i=4096", "r=abcd,s=AAAA,i=1", "r=abcd,s=AAAA,i=99999999", ""]
        {
            assert!(Login::new("u", "abc".to_owned()).second(answer, &password, &mut None).is_none(), "{answer}");
        }
    }
}
