//! What is accepted as a password lets its account in, by libpq and by rust-postgres.

use std::process::Stdio;

use anyhow::{Result, ensure};
use secrecy::SecretString;
use tokio::process::Command;
use trove_conformance::Bench;
use trove_strategy::{Datastore, PasswordRules, Site, UserChange};

use super::{POSTGRESQL, connect, id, make_user, plain, users};

fn rules() -> PasswordRules {
    POSTGRESQL.identity().users.passwords
}

async fn psql(site: &Site, password: &str) -> Result<bool> {
    let mut command = Command::new("psql");
    command.args(["--host", &site.address.to_string(), "--port", &site.port.to_string(), "--username", "u"]);
    command.args(["--dbname", "postgres", "--no-password", "--command", "select 1"]);
    command.env("PGPASSWORD", password).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.status().await?.success())
}

async fn lets_in(site: &Site, password: &str) -> Result<()> {
    ensure!(rules().refusal(password).is_none(), "{password:?} is refused");
    let secret = SecretString::from(password);
    let change = UserChange { password: Some(secret.clone()), ..UserChange::default() };
    users().change(site, &id("u"), &change).await.map_err(plain)?;
    let rust = connect(site, "u", &secret, "postgres").await;
    ensure!(rust.is_ok(), "{password:?} does not let in by rust-postgres: {:?}", rust.err());
    ensure!(psql(site, password).await?, "{password:?} does not let in by psql");
    Ok(())
}

/// Every character that is allowed by itself, those of one direction together; of the large blocks that are all alike some.
fn all_characters(right_to_left: bool) -> Vec<char> {
    let alike = |c: u32| (0x3400..0xd7a4).contains(&c) || c >= 0x2_0000;
    let some = ('\u{20}'..=char::MAX).filter(|c| !alike(u32::from(*c)) || u32::from(*c).is_multiple_of(241));
    let of_it = some.filter(|c| rules().refusal(&c.to_string()).is_none());
    of_it.filter(|c| rules().refusal(&format!("a{c}a")).is_none() != right_to_left).collect()
}

/// Numbers that are the same each time.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, end: usize) -> Result<usize> {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Ok(usize::try_from(self.0 >> 33)? % end)
    }
}

#[tokio::test]
async fn every_character_that_is_accepted_lets_in() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    make_user(&bench.site, "u", &[]).await?;
    for right_to_left in [false, true] {
        let all = all_characters(right_to_left);
        ensure!(all.len() > 100, "{} characters", all.len());
        for chunk in all.chunks(250) {
            let password: String = chunk.iter().collect();
            // Joined they may mean something else, such as marks that belong to the letter before.
            if rules().refusal(&password).is_none() {
                lets_in(&bench.site, &password).await?;
            }
        }
    }
    running.stop(&bench).await
}

#[tokio::test]
async fn passwords_that_are_accepted_let_in_and_others_are_refused_before() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    make_user(&bench.site, "u", &[]).await?;
    for password in ["⅐ cup", "xₙ", "😀", "א℡א", "\u{ad}", "tab\tulator ü"] {
        ensure!(rules().refusal(password).is_some(), "{password:?}");
    }
    for password in
        ["' or 1=1 --", " ", "  two  ", "$t$\\", "no\u{a0}break \u{fb01} u\u{308}", "שלום", "ﷺ", "e\u{301}\u{323}"]
    {
        if rules().refusal(password).is_none() {
            lets_in(&bench.site, password).await?;
        }
    }
    // What differs between readings of SASLprep: compositions, ligatures, marks, spaces, directions, what is mapped to
    // nothing, and what is new.
    let odd: Vec<char> = "aZ9 !'\"\\$ßéü\u{308}\u{301}\u{323}ﬁ①™℡½⅐ₙ²Å\u{a0}\u{2003}\u{ad}\u{200b}\u{2060}אבשׁ\u{5c1}\u{627}\u{653}ﷺﹰ٣一가\u{1100}\u{1161}\u{11a8}Ω😀€"
        .chars()
        .collect();
    let (mut drawn, mut accepted) = (Drawn(17), 0);
    for _ in 0..160 {
        let length = 1 + drawn.below(4)?;
        let password = (0..length).map(|_| Ok(odd[drawn.below(odd.len())?])).collect::<Result<String>>()?;
        if rules().refusal(&password).is_none() {
            lets_in(&bench.site, &password).await?;
            accepted += 1;
        }
    }
    ensure!(accepted > 20, "only {accepted} of 160 are accepted");
    running.stop(&bench).await
}
