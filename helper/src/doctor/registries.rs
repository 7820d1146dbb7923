//! Registries: whether they answer, within a time that a person waits.

use std::collections::BTreeSet;
use std::sync::{mpsc, Arc};
use std::time::Duration;

use grus_core::reference::DOCKER_HUB;

use super::{Check, Online, Patient};
use crate::command::registry_settings;
use crate::registry::{Client, Kind, RegistryError, Settings};

/// Most registries asked without being named.
const MOST: usize = 3;

pub fn checks(patient: &Patient, online: &Online, limit: Duration) -> Vec<Check> {
    let (names, named) = match online {
        Online::No => return vec![],
        Online::Usual => (usual(patient), false),
        Online::These(names) => (names.clone(), true),
    };
    // All at once: one that is silent holds up no other.
    let asked: Vec<_> = names
        .into_iter()
        .map(|name| {
            let settings = Settings {
                retries: 0,
                connect_timeout: limit,
                idle_timeout: limit,
                ..registry_settings(patient.context, None)
            };
            (name.clone(), knock(settings, name))
        })
        .collect();
    let end = std::time::Instant::now() + limit;
    asked
        .into_iter()
        .map(|(name, answer)| {
            let left = end.saturating_duration_since(std::time::Instant::now());
            judged(&name, answer.recv_timeout(left).ok(), named, limit)
        })
        .collect()
}

/// Those that the caller's images are from, else Docker Hub.
fn usual(patient: &Patient) -> Vec<String> {
    let listing = patient.context.repository().and_then(|repository| repository.list());
    let rows = listing.map(|listing| listing.rows).unwrap_or_default();
    let names: BTreeSet<String> = rows.into_iter().filter_map(|row| Some(row.reference?.registry)).collect();
    match names.is_empty() {
        true => vec![DOCKER_HUB.to_owned()],
        false => names.into_iter().take(MOST).collect(),
    }
}

/// Asks in a thread of its own, which nobody waits for longer than `limit`: looking a name up cannot be ended.
fn knock(settings: Settings, registry: String) -> mpsc::Receiver<Result<(), RegistryError>> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let answer = Client::new(settings).map(Arc::new).and_then(|client| client.check_login(&registry));
        let _ = send.send(answer);
    });
    receive
}

fn judged(registry: &str, answer: Option<Result<(), RegistryError>>, named: bool, limit: Duration) -> Check {
    let name = "registry.answers";
    let bad = |found: String, mend: &str| {
        Check::bad(name, named, found)
            .means("images of this registry cannot be pulled from this machine; those that are here run")
            .mend(mend)
    };
    match answer {
        Some(Ok(())) => Check::ok(name, format!("{registry} answers")),
        Some(Err(error)) if matches!(error.kind, Kind::Auth) => {
            Check::warning(name, format!("{registry} answers, and does not take the account kept for it"))
                .means(error.what)
                .mend(format!("grus login {registry}"))
        }
        // It has no API's root for everyone; what matters is that it is there.
        Some(Err(error)) if matches!(error.kind, Kind::NotFound) => {
            Check::ok(name, format!("{registry} answers"))
        }
        Some(Err(error)) => bad(error.what.clone(), error.way_out().unwrap_or("try again later")),
        None => bad(
            format!("{registry} does not answer within {} s", limit.as_secs()),
            "check network, proxy (https_proxy) and firewall; pull on a login node",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn silence_is_a_warning_and_for_a_registry_that_was_named_a_failure() {
        let second = Duration::from_secs(1);
        assert_eq!(judged("x", None, false, second).state, State::Warning);
        assert_eq!(judged("x", None, true, second).state, State::Fails);
        let auth = || Some(Err(RegistryError::new(Kind::Auth, "no")));
        assert_eq!(judged("x", auth(), true, second).state, State::Warning);
    }
}
