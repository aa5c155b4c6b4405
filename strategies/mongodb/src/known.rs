//! Parameters that a tenant may set. The engine says neither types nor ranges, and has several hundred, of which most are its
//! makers': these are the ones that its manual describes and that concern no file, no listener, no account, no other machine and
//! no other process. Ranges are those of 6.0, tried.

use std::collections::BTreeMap;

use serde_json::{Number, Value};
use trove_strategy::{EngineError, Kind, Parameter, ParameterType};

/// Where the engine reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// An option of the file, by its whole name: read at a start.
    File,
    /// Below `setParameter`: most can be set while the server runs.
    Parameter,
}

/// The values that it takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Values {
    Flag,
    Whole(i64, i64),
    Fraction(f64, f64),
    OneOf(&'static [&'static str]),
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Known {
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    pub(crate) values: Values,
    /// As the engine writes it; empty where it follows from the machine or the size.
    pub(crate) default: &'static str,
    pub(crate) unit: Option<&'static str>,
    pub(crate) restart: bool,
}

const fn file(name: &'static str, values: Values, default: &'static str) -> Known {
    Known { name, place: Place::File, values, default, unit: None, restart: true }
}

const fn live(name: &'static str, values: Values, default: &'static str) -> Known {
    Known { name, place: Place::Parameter, values, default, unit: None, restart: false }
}

const fn at_start(name: &'static str, values: Values, default: &'static str) -> Known {
    Known { name, place: Place::Parameter, values, default, unit: None, restart: true }
}

const fn in_unit(unit: &'static str, mut known: Known) -> Known {
    known.unit = Some(unit);
    known
}

const COMPRESSORS: Values = Values::OneOf(&["none", "snappy", "zlib", "zstd"]);
const INT: i64 = i32::MAX as i64;

/// By name ascending in byte order.
pub(crate) const KNOWN: [Known; 26] = [
    live("allowDiskUseByDefault", Values::Flag, "true"),
    in_unit("ms", live("cursorTimeoutMillis", Values::Whole(1, INT), "600000")),
    in_unit("B", live("internalDocumentSourceGroupMaxMemoryBytes", Values::Whole(1, 1 << 40), "104857600")),
    in_unit("B", live("internalQueryMaxBlockingSortMemoryUsageBytes", Values::Whole(0, INT), "104857600")),
    in_unit("min", at_start("localLogicalSessionTimeoutMinutes", Values::Whole(1, INT), "30")),
    in_unit("MB", live("maxIndexBuildMemoryUsageMegabytes", Values::Whole(50, INT), "200")),
    live("maxNumActiveUserIndexBuilds", Values::Whole(0, INT), "3"),
    at_start("maxSessions", Values::Whole(1000, INT), "1000000"),
    in_unit("ms", live("maxTransactionLockRequestTimeoutMillis", Values::Whole(-1, INT), "5")),
    in_unit("s", live("minSnapshotHistoryWindowInSeconds", Values::Whole(0, INT), "300")),
    file("net.maxIncomingConnections", Values::Whole(10, 1_000_000), "65536"),
    file("operationProfiling.mode", Values::OneOf(&["off", "slowOp", "all"]), "off"),
    file("operationProfiling.slowOpSampleRate", Values::Fraction(0.0, 1.0), "1"),
    in_unit("ms", file("operationProfiling.slowOpThresholdMs", Values::Whole(1, INT), "100")),
    file("security.javascriptEnabled", Values::Flag, "true"),
    in_unit("ms", file("storage.journal.commitIntervalMs", Values::Whole(1, 500), "100")),
    in_unit("h", file("storage.oplogMinRetentionHours", Values::Fraction(0.0, 8760.0), "0")),
    in_unit("s", file("storage.syncPeriodSecs", Values::Fraction(1.0, 3600.0), "60")),
    file("storage.wiredTiger.collectionConfig.blockCompressor", COMPRESSORS, "snappy"),
    in_unit("GB", file("storage.wiredTiger.engineConfig.cacheSizeGB", Values::Fraction(0.25, 10_000.0), "")),
    file("storage.wiredTiger.engineConfig.journalCompressor", COMPRESSORS, "snappy"),
    file("storage.wiredTiger.indexConfig.prefixCompression", Values::Flag, "true"),
    in_unit("s", live("transactionLifetimeLimitSeconds", Values::Whole(1, INT), "60")),
    live("ttlMonitorEnabled", Values::Flag, "true"),
    in_unit("s", live("ttlMonitorSleepSecs", Values::Whole(1, INT), "60")),
    live("wiredTigerSessionCloseIdleTimeSecs", Values::Whole(0, INT), "300"),
];

/// The one of this name.
pub(crate) fn find(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

/// A number as [`Values`] bounds it: whole bounds stay whole.
fn bound(number: f64) -> Option<Number> {
    Number::from_f64(number)
}

impl Known {
    /// Its rules for the manifest.
    pub(crate) fn parameter(&self) -> Parameter {
        let kind = match self.values {
            Values::Flag => ParameterType::Boolean,
            Values::Whole(..) => ParameterType::Integer,
            Values::Fraction(..) => ParameterType::Float,
            Values::OneOf(_) => ParameterType::String,
        };
        let mut rules = Parameter::new(self.name, kind);
        rules.unit = self.unit.map(str::to_owned);
        rules.restart_required = self.restart;
        rules.default = Some(self.default.to_owned()).filter(|default| !default.is_empty());
        match self.values {
            Values::Whole(min, max) => (rules.min, rules.max) = (Some(min.into()), Some(max.into())),
            Values::Fraction(min, max) => (rules.min, rules.max) = (bound(min), bound(max)),
            Values::OneOf(allowed) => rules.allowed = allowed.iter().map(|text| (*text).to_owned()).collect(),
            Values::Flag => {}
        }
        rules
    }

    /// A value as the file has it: texts are read as what they mean.
    fn value(&self, given: &Value) -> Result<Value, String> {
        let text = match given {
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => given.to_string(),
            _ => return Err("its value is no single word or number".to_owned()),
        };
        match self.values {
            Values::Flag => match text.as_str() {
                "true" => Ok(true.into()),
                "false" => Ok(false.into()),
                _ => Err(format!("{text:?} is neither true nor false")),
            },
            Values::Whole(min, max) => match text.parse::<i64>() {
                Ok(number) if (min..=max).contains(&number) => Ok(number.into()),
                _ => Err(format!("{text:?} is no whole number from {min} to {max}")),
            },
            Values::Fraction(min, max) => match text.parse::<f64>() {
                Ok(number) if (min..=max).contains(&number) => Ok(number.into()),
                _ => Err(format!("{text:?} is no number from {min} to {max}")),
            },
            Values::OneOf(allowed) if allowed.contains(&text.as_str()) => Ok(text.into()),
            Values::OneOf(allowed) => Err(format!("{text:?} is none of {}", allowed.join(", "))),
        }
    }
}

/// What was chosen.
pub(crate) fn chosen(parameters: &BTreeMap<String, Value>) -> Result<Vec<(&'static Known, Value)>, EngineError> {
    let wrong = |name: &str, reason: &str| EngineError::new(Kind::Invalid, format!("the parameter {name:?}: {reason}"));
    let one = |(name, given): (&String, &Value)| {
        let known = find(name).ok_or_else(|| wrong(name, "it is not one that can be set here"))?;
        known.value(given).map(|value| (known, value)).map_err(|reason| wrong(name, &reason))
    };
    parameters.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_sorted_and_their_defaults_are_allowed() {
        assert!(KNOWN.windows(2).all(|pair| pair[0].name < pair[1].name));
        for known in KNOWN.iter().filter(|known| !known.default.is_empty()) {
            assert!(known.value(&Value::from(known.default)).is_ok(), "{}", known.name);
        }
    }

    #[test]
    fn what_is_the_agents_or_reaches_further_than_data_cannot_be_chosen() {
        for name in [
            "authenticationMechanisms",
            "auditLog.path",
            "diagnosticDataCollectionDirectoryPath",
            "enableLocalhostAuthBypass",
            "enableTestCommands",
            "honorSystemUmask",
            "ldapUserToDNMapping",
            "logLevel",
            "net.bindIp",
            "net.port",
            "net.tls.mode",
            "net.unixDomainSocket.pathPrefix",
            "notablescan",
            "opensslCipherConfig",
            "processManagement.fork",
            "processUmask",
            "replication.oplogSizeMB",
            "replication.replSetName",
            "security.authorization",
            "security.keyFile",
            "setParameter",
            "setParameter.enableLocalhostAuthBypass",
            "sharding.clusterRole",
            "shutdownTimeoutMillisForSignaledShutdown",
            "storage.dbPath",
            "storage.directoryPerDB",
            "storage.engine",
            "storage.wiredTiger.engineConfig.configString",
            "systemLog.path",
            "tlsMode",
            "watchdogPeriodSeconds",
            "wiredTigerEngineRuntimeConfig",
        ] {
            let refused = chosen(&[(name.to_owned(), Value::from("1"))].into());
            assert!(
                refused.is_err_and(|error| error.kind() == Kind::Invalid && error.chain().contains(name)),
                "{name}"
            );
        }
    }

    #[test]
    fn values_are_read_by_what_the_parameter_takes() {
        let value = |name: &str, given: Value| find(name).unwrap().value(&given);
        assert_eq!(value("ttlMonitorEnabled", "true".into()).unwrap(), Value::Bool(true));
        assert_eq!(value("cursorTimeoutMillis", "5".into()).unwrap(), Value::from(5));
        assert_eq!(value("operationProfiling.mode", "all".into()).unwrap(), Value::from("all"));
        for (name, wrong) in [
            ("ttlMonitorEnabled", Value::from(1)),
            ("cursorTimeoutMillis", Value::from(-5)),
            ("cursorTimeoutMillis", Value::from(1.5)),
            ("operationProfiling.mode", Value::from("all\nnet: {}")),
            ("storage.syncPeriodSecs", Value::from("NaN")),
            ("storage.syncPeriodSecs", Value::from(0)),
            ("cursorTimeoutMillis", Value::Null),
        ] {
            assert!(value(name, wrong.clone()).is_err(), "{name} {wrong}");
        }
    }
}
