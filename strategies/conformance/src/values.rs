//! Values of parameters at random: what is accepted works, and what is refused changes nothing.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context, Result, ensure};
use serde_json::{Number, Value};
use trove_strategy::{Applied, Kind, Parameter, ParameterType, Settings, StartMode};

use crate::bench::{Bench, Running};
use crate::plain;

/// What was tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    /// Choices that the engine was started with.
    pub worked: usize,
    /// Choices that were refused before anything was written.
    pub refused: usize,
    /// Choices with which the engine did not start, and said why.
    pub unstartable: usize,
}

/// Tries choices of values on a running engine. Each is of one to three of the parameters that the strategy describes; one that
/// needs a restart is kept small, since it may be memory. They follow from a seed: the environment's `TROVE_SEED`, or another one
/// each time. It is printed.
///
/// # Errors
/// The first thing that does not hold, with the seed and the choice.
pub async fn try_values(bench: &Bench<'_>, mut running: Running, rounds: usize) -> Result<(Running, Tried)> {
    let seed: u64 = match std::env::var("TROVE_SEED") {
        Ok(text) => text.parse().context("TROVE_SEED")?,
        Err(_) => rand::random(),
    };
    writeln!(std::io::stdout(), "seed {seed}; the same again with TROVE_SEED={seed}")?;
    let parameters = bench.datastore.parameters().context("parameters")?;
    let described = parameters.describe(&bench.site).await.map_err(plain)?;
    let (mut random, mut tried) = (Random(seed), Tried::default());
    for round in 0..rounds {
        let mut settings = Settings::default();
        for _ in 0..=random.below(3) {
            let parameter = &described[random.below(described.len())];
            settings.parameters.insert(parameter.name.clone(), random.value(parameter));
        }
        let choice = format!("seed {seed}, round {round}, {:?}", settings.parameters);
        running = one(bench, running, &settings, &mut tried).await.context(choice)?;
    }
    Ok((running, tried))
}

async fn one(bench: &Bench<'_>, running: Running, settings: &Settings, tried: &mut Tried) -> Result<Running> {
    let parameters = bench.datastore.parameters().context("parameters")?;
    let now = async || Ok::<_, anyhow::Error>(parameters.values(&bench.site).await.map_err(plain)?);
    let before = now().await?;
    if let Err(refused) = parameters.check(&bench.site, &settings.parameters).await {
        ensure!(refused.kind() == Kind::Invalid, "it is refused as {:?}: {}", refused.kind(), refused.chain());
        ensure!(now().await? == before, "it is refused, and something has changed");
        tried.refused += 1;
        return Ok(running);
    }
    let became = bench.take_up(settings).await.map_err(plain)?;
    said_of_each(settings, &became)?;
    answers(bench).await.context("while it runs")?;
    running.stop(bench).await?;
    bench.datastore.engine().configure(&bench.site, settings).await.map_err(plain)?;
    let mut running = bench.spawn_with(StartMode::Normal, settings)?;
    let logged = bench.log().len();
    if bench.await_answer(&mut running).await.is_ok() {
        let became = parameters.apply(&bench.site, settings).await.map_err(plain)?;
        said_of_each(settings, &became)?;
        waits_for_nothing(settings, &became, &now().await?)?;
        answers(bench).await.context("after a start")?;
        running.stop(bench).await?;
        tried.worked += 1;
    } else {
        ensure!(bench.log().len() > logged, "it does not start, and does not say why");
        // It has ended, or ends with this.
        drop(running);
        bench.await_none().await?;
        tried.unstartable += 1;
    }
    let engine = bench.datastore.engine();
    engine.configure(&bench.site, &Settings::default()).await.map_err(plain)?;
    engine.forget_earlier_life(&bench.site).await.map_err(plain)?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await.context("without them again")?;
    ensure!(now().await? == before, "without them it is not as it was");
    Ok(running)
}

fn said_of_each(settings: &Settings, became: &BTreeMap<String, Applied>) -> Result<()> {
    for name in settings.parameters.keys() {
        let said = became.get(name).with_context(|| format!("nothing became of {name}"))?;
        ensure!(!matches!(said, Applied::Refused(words) if words.is_empty()), "{name} is refused without a word");
    }
    Ok(())
}

/// An engine that was started with a value and has another has adjusted it, which the agent then says; one that has it waits for
/// nothing.
fn waits_for_nothing(
    settings: &Settings,
    became: &BTreeMap<String, Applied>,
    values: &[(String, String)],
) -> Result<()> {
    for (name, _) in became.iter().filter(|(_, became)| **became == Applied::NeedsRestart) {
        let chosen = settings.parameters.get(name).with_context(|| format!("{name} waits, and nobody chose it"))?;
        let chosen = chosen.as_str().map_or_else(|| chosen.to_string(), str::to_owned);
        let used = values.iter().find_map(|(known, value)| (known == name).then_some(value));
        ensure!(used.is_none_or(|used| *used != chosen), "{name} waits for a start with {chosen}, and has it");
    }
    Ok(())
}

/// The agent can still do its work.
async fn answers(bench: &Bench<'_>) -> Result<()> {
    bench.datastore.engine().probe(&bench.site).await.map_err(plain).context("probe")?;
    bench.datastore.engine().metrics(&bench.site).await.map_err(plain).context("metrics")?;
    if let Some(users) = bench.datastore.users() {
        users.list(&bench.site).await.map_err(plain).context("list accounts")?;
    }
    Ok(())
}

/// A small generator whose whole state is the seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % most.max(1) as u64).unwrap_or_default()
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    fn value(&mut self, parameter: &Parameter) -> Value {
        let default = parameter.default.clone().unwrap_or_default();
        let text = |text: &str| Value::from(text);
        match parameter.kind {
            ParameterType::Boolean => self.of(&[true.into(), false.into(), text("perhaps")]),
            ParameterType::Integer => {
                let least = parameter.min.as_ref().and_then(Number::as_i64);
                let most = parameter.max.as_ref().and_then(Number::as_i64);
                let mut all = vec![text(&default), text("many")];
                all.extend(
                    least
                        .iter()
                        .flat_map(|least| [*least, least.saturating_add(1), least.saturating_sub(1)])
                        .map(Value::from),
                );
                if !parameter.restart_required {
                    all.extend(most.iter().flat_map(|most| [*most, most.saturating_add(1)]).map(Value::from));
                    if let (Some(least), Some(most)) = (least, most) {
                        let width = most.abs_diff(least).max(1);
                        all.push(least.saturating_add_unsigned(self.next() % width).into());
                    }
                }
                self.of(&all)
            }
            ParameterType::Float => {
                let bounds = [&parameter.min, &parameter.max].into_iter().flatten().cloned().map(Value::Number);
                let all: Vec<Value> = bounds.chain([text(&default), Value::from(0.5), Value::from(-1e300)]).collect();
                self.of(&all)
            }
            _ if !parameter.allowed.is_empty() => {
                let all: Vec<Value> =
                    parameter.allowed.iter().map(|one| text(one)).chain([text("none of them")]).collect();
                self.of(&all)
            }
            _ => {
                let long = "x".repeat(300);
                self.of(&["", &default, "it's", "a\\b", "two\nlines", "$HOME", "%s", "\u{fc}", &long].map(text))
            }
        }
    }
}
