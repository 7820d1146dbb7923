//! The requests of a heterogeneous step's components. One environment serves them all, so they travel as one text;
//! each slurmstepd takes its own.

use super::{malformed, not_read, Request, MAX_ENCODED};
use crate::refusal::Refusal;

/// Most components of a heterogeneous job, as in Slurm.
const MAX_COMPONENTS: usize = 128;

/// The request of each component, in Slurm's order; a single one is everybody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Components(Vec<Request>);

impl Components {
    /// Adds the request of the next component.
    pub fn push(&mut self, request: Request) {
        self.0.push(request);
    }

    /// Whether all ask for the same.
    pub fn alike(&self) -> bool {
        self.0.windows(2).all(|pair| match pair {
            [a, b] => a == b || (!a.wants_container() && !b.wants_container()),
            _ => true,
        })
    }

    /// The text that travels; empty where nobody wants a container.
    pub fn encode(&self) -> Result<String, Refusal> {
        let Some(first) = self.0.iter().find(|request| request.wants_container()) else {
            return Ok(String::new());
        };
        if self.alike() {
            return encoded(first);
        }
        // A component on the host sends nothing of what it said.
        let texts: Result<Vec<String>, Refusal> = self
            .0
            .iter()
            .map(|request| match request.wants_container() {
                true => encoded(request),
                false => Ok("{}".into()),
            })
            .collect();
        let text = format!("[{}]", texts?.join(","));
        match text.len() <= MAX_ENCODED {
            true => Ok(text),
            false => Err(Refusal::user(format!(
                "the container options of all components are {} bytes long, more than {MAX_ENCODED}",
                text.len()
            ))
            .hint("use fewer or shorter --mount options, or start one srun for each component")),
        }
    }

    /// Reads back what travelled, as hostile text.
    pub fn decode(text: &str) -> Result<Self, Refusal> {
        if !text.trim_start().starts_with('[') {
            return Request::decode(text).map(|request| Self(vec![request]));
        }
        if text.len() > MAX_ENCODED {
            return Err(malformed(&format!("it is longer than {MAX_ENCODED} bytes")));
        }
        let requests: Vec<Request> = serde_json::from_str(text).map_err(|e| not_read(&e))?;
        if requests.len() > MAX_COMPONENTS {
            return Err(malformed(&format!("more than {MAX_COMPONENTS} components")));
        }
        requests.into_iter().map(Request::checked).collect::<Result<_, _>>().map(Self)
    }

    /// The request of the component with this number; None where Slurm does not tell the number.
    pub fn of(mut self, component: Option<usize>) -> Result<Request, Refusal> {
        if self.0.len() == 1 {
            return Ok(self.0.remove(0));
        }
        let count = self.0.len();
        component.filter(|number| *number < count).map(|number| self.0.swap_remove(number)).ok_or_else(|| {
            Refusal::user("it cannot be told which component of the heterogeneous step this is")
                .hint("give every component the same container options, or start one srun for each")
        })
    }
}

/// One that does not fit with its rulings is left to the nodes.
fn encoded(request: &Request) -> Result<String, Refusal> {
    let one = || Request { module_ruling: None, ..request.clone() };
    let none = || Request { ruling: None, ..one() };
    request.encode().or_else(|_| one().encode()).or_else(|_| none().encode())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Opt;
    use crate::path::AbsPath;

    fn asks(image: &str) -> Request {
        let mut request = Request::default();
        request.set(Opt::Image, image, &AbsPath::root()).expect("good");
        request
    }

    fn of(requests: &[&Request]) -> Components {
        Components(requests.iter().map(|request| (*request).clone()).collect())
    }

    #[test]
    fn each_component_gets_its_own() {
        let (a, b, none) = (asks("a"), asks("b"), asks("none"));
        let text = of(&[&a, &none, &b]).encode().expect("short");
        let sent = || Components::decode(&text).expect("own text");
        assert_eq!(sent().of(Some(0)).expect("there"), a);
        assert_eq!(sent().of(Some(2)).expect("there"), b);
        assert!(!sent().of(Some(1)).expect("there").wants_container());
        for unknown in [None, Some(3)] {
            assert!(sent().of(unknown).expect_err("not there").what.contains("which component"));
        }
    }

    #[test]
    fn what_all_ask_for_travels_once() {
        let a = asks("a");
        let same = of(&[&a, &a]).encode().expect("short");
        assert_eq!(same, a.encode().expect("short"));
        assert_eq!(Components::decode(&same).expect("own text").of(None).expect("for everybody"), a);
        assert_eq!(of(&[&asks("none"), &Request::default()]).encode().expect("short"), "");
        assert_eq!(Components::default().encode().expect("short"), "");
    }

    #[test]
    fn hostile_lists_are_refused() {
        let many = format!("[{}]", "[],".repeat(MAX_ENCODED / 3));
        for bad in ["[", "[1]", "[{\"unknown\":1}]", "[{},]", &many, &"[".repeat(9000)] {
            let refusal = Components::decode(bad).expect_err("hostile");
            assert!(refusal.what.contains("does not hold container options"), "{refusal}");
        }
        assert!(Components::decode("[]").expect("a list").of(Some(0)).is_err());
        let list = |n: usize| format!("[{}]", vec!["{}"; n].join(","));
        assert!(Components::decode(&list(MAX_COMPONENTS)).is_ok());
        let refusal = Components::decode(&list(MAX_COMPONENTS + 1)).expect_err("too many");
        assert!(refusal.what.ends_with("more than 128 components"), "{refusal}");
    }
}
