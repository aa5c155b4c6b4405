//! Fields that carry the option `secret`: they are kept out of logs and journals.

use std::sync::LazyLock;

use prost::{DecodeError, Message};
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, MessageDescriptor, ReflectMessage as _, Value};

use crate::v1;

/// What stands for a secret in a `Debug` text.
pub(crate) const HIDDEN: &str = "(secret)";

/// The contract's own descriptors. The build has decoded these very bytes, so that the error never comes.
static POOL: LazyLock<Result<DescriptorPool, DecodeError>> = LazyLock::new(|| {
    let bytes: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    DescriptorPool::decode(bytes).map_err(|error| undescribed(&error.to_string()))
});

#[allow(deprecated)]
fn undescribed(what: &str) -> DecodeError {
    DecodeError::new(format!("the contract's descriptors: {what}"))
}

fn message(name: &str) -> Result<MessageDescriptor, DecodeError> {
    let pool = POOL.as_ref().map_err(Clone::clone)?;
    pool.get_message_by_name(name).ok_or_else(|| undescribed(name))
}

fn is_secret(field: &FieldDescriptor) -> bool {
    let option = field.parent_pool().get_extension_by_name("trove.agent.v1.secret");
    option.is_some_and(|option| field.options().get_extension(&option).as_bool() == Some(true))
}

/// The same work with every secret in it empty. One that is optional stays present.
///
/// # Errors
/// None that a message of this contract meets.
pub fn without_secrets(start: &v1::Start) -> Result<v1::Start, DecodeError> {
    let descriptor = message("trove.agent.v1.Start")?;
    let mut scrubbed = DynamicMessage::decode(descriptor, start.encode_to_vec().as_slice())?;
    scrub(&mut scrubbed);
    v1::Start::decode(scrubbed.encode_to_vec().as_slice())
}

fn scrub(message: &mut DynamicMessage) {
    for field in message.descriptor().fields().filter(|field| message.has_field(field)).collect::<Vec<_>>() {
        if is_secret(&field) {
            message.set_field(&field, Value::default_value_for_field(&field));
            continue;
        }
        match message.get_field_mut(&field) {
            Value::Message(inner) => scrub(inner),
            Value::List(values) => values.iter_mut().filter_map(Value::as_message_mut).for_each(scrub),
            Value::Map(values) => values.values_mut().filter_map(Value::as_message_mut).for_each(scrub),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields whose names sound like secrets, and are none.
    const NO_SECRETS: [&str; 1] = ["trove.agent.v1.Start.key"];

    /// Fields that are secrets, and whose names do not sound like it: who has them can read or write an object.
    const UNNAMED: [&str; 2] = ["trove.agent.v1.ObjectGrant.url", "trove.agent.v1.ObjectGrant.headers"];

    #[test]
    fn every_field_that_is_named_like_a_secret_is_one() {
        let mut found = 0;
        let own = |message: &MessageDescriptor| message.package_name() == "trove.agent.v1" && !message.is_map_entry();
        for message in POOL.as_ref().unwrap().all_messages().filter(own) {
            for field in message.fields() {
                let words: Vec<&str> = field.name().split('_').collect();
                let sounds = ["password", "key", "secret", "token", "identity"].iter().any(|word| words.contains(word));
                let name = field.full_name();
                let expected = sounds && !NO_SECRETS.contains(&name) || UNNAMED.contains(&name);
                assert_eq!(is_secret(&field), expected, "{}", field.full_name());
                found += usize::from(expected);
            }
        }
        assert!(found >= 6, "{found}");
    }

    /// A start of every kind of work, with `secret` in every secret field.
    fn starts(secret: &str) -> Vec<v1::Start> {
        use v1::account_change::Kind;
        let account = || Some(v1::Account { name: "ann".to_owned(), host: "%".to_owned() });
        let user = || v1::NewUser { account: account(), password: secret.to_owned(), databases: vec!["d".to_owned()] };
        let certificate = v1::EngineCertificate { key_pem: secret.to_owned(), ..v1::EngineCertificate::default() };
        let parameters = (0..20).map(|n| (format!("p{n}"), n.to_string())).collect();
        let specification =
            v1::Specification { certificate: Some(certificate), parameters, ..v1::Specification::default() };
        let prepare = v1::Prepare {
            specification: Some(specification),
            users: vec![user()],
            root_password: Some(secret.to_owned()),
            ..v1::Prepare::default()
        };
        let new_password = Some(secret.to_owned());
        let kinds = [
            Kind::CreateUser(user()),
            Kind::ChangeUser(v1::ChangeUser { account: account(), new_password, ..v1::ChangeUser::default() }),
            Kind::EnableRoot(v1::EnableRoot { password: secret.to_owned() }),
        ];
        let changes = kinds.map(|kind| v1::AccountChange { kind: Some(kind) }).to_vec();
        let works =
            [v1::start::Work::Prepare(prepare), v1::start::Work::ChangeAccounts(v1::ChangeAccounts { changes })];
        works.map(|work| v1::Start { work: Some(work), ..v1::Start::default() }).to_vec()
    }

    #[test]
    fn no_secret_is_left_at_any_depth_and_all_else_is() {
        for (one, other) in starts("swordfish").iter().zip(starts("open sesame")) {
            let scrubbed = without_secrets(one).unwrap();
            assert!(!scrubbed.encode_to_vec().windows(9).any(|bytes| bytes == b"swordfish"));
            assert_eq!(scrubbed.encode_to_vec(), without_secrets(&other).unwrap().encode_to_vec());
            let text = format!("{scrubbed:?}");
            assert!(text.contains("ann"), "{text}");
        }
        let Some(v1::start::Work::Prepare(prepare)) = without_secrets(&starts("x")[0]).unwrap().work else { panic!() };
        assert_eq!(prepare.root_password.as_deref(), Some(""), "that there is one is no secret");
        assert_eq!(prepare.specification.unwrap().parameters.len(), 20);
    }

    /// Whether a field of it, at any depth, is a secret. No message of the contract holds itself.
    fn holds_secrets(message: &MessageDescriptor) -> bool {
        let inner = |field: &FieldDescriptor| field.kind().as_message().is_some_and(holds_secrets);
        message.fields().any(|field| is_secret(&field) || inner(&field))
    }

    #[test]
    fn what_a_job_came_to_is_written_down_and_holds_no_secrets() {
        assert!(holds_secrets(&message("trove.agent.v1.Start").unwrap()));
        assert!(!holds_secrets(&message("trove.agent.v1.Result").unwrap()));
    }

    #[test]
    fn a_debug_text_shows_no_secret() {
        for start in starts("swordfish") {
            let text = format!("{start:?}");
            assert!(!text.contains("swordfish") && text.contains(HIDDEN) && text.contains("ann"), "{text}");
        }
        let text = format!("{:?}", v1::EnrolRequest { token: "swordfish".to_owned(), csr_der: Vec::new() });
        assert!(!text.contains("swordfish"), "{text}");
    }
}
