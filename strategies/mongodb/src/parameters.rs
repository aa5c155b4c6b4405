//! What can be set, and what is in force.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bson::{Bson, Document, doc};
use serde_json::Value;
use trove_strategy::{Applied, Command, Directory, EngineError, File, HostError, Kind, Owner, Parameter, Parameters};
use trove_strategy::{Settings, Site};

use crate::Mongodb;
use crate::client::Session;
use crate::config::{self, Purpose, program};
use crate::known::{self, KNOWN, Known, Place, Values};
use crate::names::HOME;

/// What the running server has.
struct InForce {
    parameters: Document,
    options: Document,
}

impl InForce {
    async fn ask(session: &mut Session, attempt: &str) -> Result<Self, EngineError> {
        let parameters = session.run(attempt, HOME, doc! {"getParameter": "*"}).await?;
        let answer = session.run(attempt, HOME, doc! {"getCmdLineOpts": 1}).await?;
        Ok(Self { parameters, options: answer.get_document("parsed").cloned().unwrap_or_default() })
    }

    /// The value as a text; `None` where this server does not know the parameter.
    fn value(&self, known: &Known) -> Option<String> {
        match known.place {
            Place::Parameter => self.parameters.get(known.name).map(text),
            Place::File => {
                let set = known.name.split('.').try_fold(Bson::Document(self.options.clone()), |outer, name| {
                    outer.as_document().and_then(|outer| outer.get(name)).cloned()
                });
                // What the file does not say is as the engine has it by itself.
                Some(set.as_ref().map_or_else(|| known.default.to_owned(), text))
            }
        }
    }
}

fn text(value: &Bson) -> String {
    match value {
        Bson::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether two texts mean the same value.
fn same(known: &Known, one: &str, other: &str) -> bool {
    match (known.values, one.parse::<f64>(), other.parse::<f64>()) {
        (Values::Whole(..) | Values::Fraction(..), Ok(one), Ok(other)) => (one - other).abs() < f64::EPSILON,
        _ => one == other,
    }
}

fn bson(value: &Value) -> Bson {
    match value {
        Value::Bool(on) => (*on).into(),
        Value::Number(number) => {
            number.as_i64().map_or_else(|| number.as_f64().unwrap_or_default().into(), Bson::Int64)
        }
        other => Bson::String(other.as_str().unwrap_or_default().to_owned()),
    }
}

/// A value that is chosen, as the server would write it.
fn written(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What the next start gives it where nobody chooses.
fn at_start(known: &Known, site: &Site) -> String {
    let by_size = || config::sized(known.name, site.size).map_or_else(String::new, |value| written(&value));
    Some(known.default).filter(|default| !default.is_empty()).map_or_else(by_size, str::to_owned)
}

async fn set(session: &mut Session, known: &Known, value: &Value) -> Result<Applied, EngineError> {
    let attempt = format!("set the parameter {:?}", known.name);
    let command = doc! {"setParameter": 1, known.name: bson(value)};
    Ok(match session.ask(&attempt, HOME, command).await? {
        Ok(_) => Applied::Live,
        Err(refused) => Applied::Refused(crate::client::explained(&attempt, &refused).chain()),
    })
}

#[async_trait]
impl Parameters for Mongodb {
    async fn describe(&self, site: &Site) -> Result<Vec<Parameter>, EngineError> {
        let session = &mut self.held.session(site).await?;
        let in_force = InForce::ask(session, "list parameters").await?;
        Ok(KNOWN.iter().filter(|known| in_force.value(known).is_some()).map(Known::parameter).collect())
    }

    async fn values(&self, site: &Site) -> Result<Vec<(String, String)>, EngineError> {
        let session = &mut self.held.session(site).await?;
        let in_force = InForce::ask(session, "list parameters").await?;
        Ok(KNOWN.iter().filter_map(|known| Some((known.name.to_owned(), in_force.value(known)?))).collect())
    }

    async fn check(&self, site: &Site, values: &BTreeMap<String, Value>) -> Result<(), EngineError> {
        known::chosen(values)?;
        let mut settings = Settings::default();
        settings.parameters = values.clone();
        let at = Directory::Config.join("check.conf");
        let contents = config::text(site, &settings, Purpose::Normal)?.into_bytes();
        site.host.write(File { at: at.clone(), contents, mode: 0o640, owner: Owner::Agent }).await?;
        let path = site.path(&at).to_string_lossy().into_owned();
        let read = Command::engine(program(site)).arg("--config").arg(path).arg("--outputConfig");
        let read = site.host.run(read).await;
        site.host.remove(&at).await?;
        match read {
            Ok(_) => Ok(()),
            Err(HostError::Failed { stderr, .. }) => {
                let said =
                    stderr.lines().find(|line| !line.trim().is_empty()).unwrap_or("it gives no reason").to_owned();
                let names = values.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                Err(EngineError::new(Kind::Invalid, format!("the parameters {names}: {said}")))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn apply(&self, site: &Site, settings: &Settings) -> Result<BTreeMap<String, Applied>, EngineError> {
        let attempt = "apply the parameters";
        let chosen = known::chosen(&settings.parameters)?;
        let session = &mut self.held.session(site).await?;
        let in_force = InForce::ask(session, attempt).await?;
        let mut all = BTreeMap::new();
        for known in &KNOWN {
            let wanted = chosen.iter().find(|(other, _)| other.name == known.name).map(|(_, value)| value);
            let Some(current) = in_force.value(known) else { continue };
            let is_so = |value: &Value| same(known, &current, &written(value));
            let applied = match wanted {
                Some(value) if is_so(value) => Applied::Live,
                Some(_) if known.restart => Applied::NeedsRestart,
                Some(value) => set(session, known, value).await?,
                // What nobody chooses is as the engine has it by itself.
                None if known.restart && same(known, &current, &at_start(known, site)) => continue,
                None if known.restart => Applied::NeedsRestart,
                None if same(known, &current, known.default) => continue,
                None => {
                    let default = known::chosen(&[(known.name.to_owned(), known.default.into())].into())?;
                    for (_, value) in &default {
                        set(session, known, value).await?;
                    }
                    continue;
                }
            };
            all.insert(known.name.to_owned(), applied);
        }
        for (known, _) in &chosen {
            let unknown = || Applied::Refused("this version of the engine does not know it".to_owned());
            all.entry(known.name.to_owned()).or_insert_with(unknown);
        }
        Ok(all)
    }
}
