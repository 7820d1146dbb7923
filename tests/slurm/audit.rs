//! The audit trail: what the journal gets of each launch and each refusal. Where this machine has no journal, a socket
//! stands in for it, and is read by the rules of the journal's native protocol.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::mpsc::{channel, Receiver};
use std::time::{Duration, Instant};

use grus_tests::Cmd;

use crate::lab::Lab;

crate::tests![
    a_launch_is_recorded_with_all_that_was_decided,
    each_refusal_is_recorded_with_its_text,
    no_value_of_the_environment_is_recorded,
    no_path_adds_a_line_to_a_record,
    a_lost_server_is_recorded,
    a_node_without_a_journal_launches_all_the_same,
];

const SOCKET: &str = "/run/systemd/journal/socket";

type Record = BTreeMap<String, String>;

/// The machine's journal, or the socket that stands in for it until this is dropped.
enum Journal {
    Real(String),
    StandIn(Receiver<Vec<u8>>),
}

impl Journal {
    fn listen() -> Self {
        if UnixDatagram::unbound().and_then(|socket| socket.connect(SOCKET)).is_ok() {
            let cursor = Cmd::new("journalctl").args(["-n0", "--show-cursor", "--quiet"]).run().success();
            let cursor = cursor.stdout.split_once("cursor: ").map(|(_, cursor)| cursor.trim().to_owned());
            return Journal::Real(cursor.expect("journalctl shows its cursor"));
        }
        fs::create_dir_all(Path::new(SOCKET).parent().expect("a path")).expect("root may");
        let _ = fs::remove_file(SOCKET);
        let socket = UnixDatagram::bind(SOCKET).expect("nobody has the path");
        // As the journal's own: user_init has the user's effective id.
        fs::set_permissions(SOCKET, PermissionsExt::from_mode(0o666)).expect("root may");
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let mut datagram = vec![0; 1 << 20];
            while let Ok(length) = socket.recv(&mut datagram) {
                // An empty one asks whether anybody is there.
                if length > 0 && tell.send(datagram[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Journal::StandIn(told)
    }

    /// The records of Grus from here on until one is of this event, that one last.
    #[track_caller]
    fn until(&self, event: &str) -> Vec<Record> {
        let end = Instant::now() + Duration::from_secs(20);
        let mut records = vec![];
        loop {
            match self {
                Journal::Real(cursor) => records = real(cursor),
                Journal::StandIn(told) => {
                    let left = end.saturating_duration_since(Instant::now());
                    records.extend(told.recv_timeout(left).ok().map(|datagram| native(&datagram)));
                }
            }
            let found =
                records.iter().position(|record| record.get("GRUS_EVENT").is_some_and(|e| e == event));
            if let Some(at) = found {
                records.truncate(at + 1);
                return records;
            }
            assert!(Instant::now() < end, "no record of {event} in {records:#?}");
        }
    }

    #[track_caller]
    fn one(&self, event: &str) -> Record {
        self.until(event).pop().expect("the one that was waited for")
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Journal::StandIn(_) = self {
            let _ = fs::remove_file(SOCKET);
            let _ = fs::remove_dir("/run/systemd/journal");
        }
    }
}

fn real(cursor: &str) -> Vec<Record> {
    let after = format!("--after-cursor={cursor}");
    let output = Cmd::new("journalctl").args(["-tgrus", "_UID=0", "-ojson", "--all", &after]).run().success();
    let lines = output.stdout.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let fields = |value: serde_json::Value| {
        let fields = value.as_object().into_iter().flatten();
        fields.map(|(name, value)| (name.clone(), text(value))).collect()
    };
    lines.map(fields).collect()
}

/// `NAME=value` and a newline; or `NAME`, a newline, the length in 64 bits, the value, a newline (systemd's
/// JOURNAL_NATIVE_PROTOCOL).
fn native(mut bytes: &[u8]) -> Record {
    let mut record = Record::new();
    while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("Grus writes UTF-8");
        bytes = match line.iter().position(|b| *b == b'=') {
            Some(equals) => {
                record.insert(text(&line[..equals]), text(&line[equals + 1..]));
                rest
            }
            None => {
                let length = u64::from_le_bytes(rest[..8].try_into().expect("eight bytes")) as usize;
                record.insert(text(line), text(&rest[8..8 + length]));
                &rest[8 + length + 1..]
            }
        };
    }
    record
}

#[track_caller]
fn has(record: &Record, fields: &[(&str, &str)]) {
    for (name, value) in fields {
        let name = format!("GRUS_{name}");
        assert_eq!(record.get(&name).map(String::as_str), Some(*value), "{name} of {record:#?}");
    }
}

fn a_launch_is_recorded_with_all_that_was_decided(lab: &Lab) {
    let (node, account) = (lab.node(1), lab.account());
    let reference = lab.system_image("busybox");
    let image = format!("--container-image={reference}");
    let args =
        ["-w", &node, &image, "--mount=/usr:/opt/host:ro", "--mount=type=tmpfs,dst=/fast,size=1m", "true"];
    let journal = Journal::listen();
    let _ = lab.srun(&args).run().success();
    let record = journal.one("launch");
    let uid = account.uid.to_string();
    has(
        &record,
        &[("NODE", &node), ("UID", &uid), ("USER", &account.name), ("STEP", "0"), ("HOW", "kernel")],
    );
    has(&record, &[("WRITABLE", "false"), ("REMAP_ROOT", "false"), ("NAMESPACES", "")]);
    let file = lab.system_file("busybox");
    let digest = file.file_stem().and_then(|stem| stem.to_str()).expect("a digest");
    has(&record, &[("DIGEST", &format!("sha256:{digest}")), ("IMAGE", &file.to_string_lossy())]);
    assert!(record["GRUS_REFERENCE"].ends_with(reference.rsplit('/').next().expect("a name")), "{record:#?}");
    let mounts: Vec<&str> = record["GRUS_MOUNTS"].lines().collect();
    assert!(mounts.contains(&"bind      /usr on /opt/host (ro)"), "{mounts:#?}");
    assert!(mounts.iter().any(|mount| mount.starts_with("tmpfs     /fast (rw,size=1m")), "{mounts:#?}");
    let number = |text: &str| text.parse::<u64>().expect("a number");
    assert!(number(&record["GRUS_JOB"]) > 0);
    let phases: u64 = record["GRUS_PHASES_US"]
        .lines()
        .map(|line| number(line.split_once('=').expect("PHASE=MICROSECONDS").1))
        .sum();
    // Each phase is rounded down.
    let took = number(&record["GRUS_TOOK_US"]);
    assert!(took > 0 && phases <= took && took <= phases + 20, "{record:#?}");
    assert_eq!(record["SYSLOG_IDENTIFIER"], "grus");
    assert_eq!(record["PRIORITY"], "5");
}

fn each_refusal_is_recorded_with_its_text(lab: &Lab) {
    let (node, account) = (lab.node(1), lab.account());
    let reference = lab.system_image("busybox");
    let image = format!("--container-image={reference}");
    let journal = Journal::listen();
    let missing = ["-w", &node, &image, "--mount=/no/such/source:/mnt", "true"];
    let _ = lab.srun(&missing).run().failure();
    let record = journal.one("refusal");
    has(&record, &[("NODE", &node), ("USER", &account.name), ("UID", &account.uid.to_string())]);
    assert!(record["GRUS_REFUSAL"].contains("/no/such/source"), "{record:#?}");
    assert!(record["GRUS_HINT"].len() > 5 && record["MESSAGE"].contains("/no/such/source"), "{record:#?}");
    assert!(record["GRUS_REFERENCE"].ends_with(reference.rsplit('/').next().expect("a name")), "{record:#?}");
    assert_eq!(record["PRIORITY"], "3");
    // One that is refused before anything of it is known.
    let hostile = "--export=ALL,SLURM_GRUS_REQUEST=junk";
    let _ = lab.srun(&["-w", &node, hostile, "true"]).run().failure();
    let record = journal.one("refusal");
    has(&record, &[("NODE", &node), ("USER", &account.name), ("STEP", "0")]);
    assert!(record["GRUS_REFUSAL"].contains("does not hold container options"), "{record:#?}");
    // And one where a system call fails: its phase and number are there.
    let damaged = lab.fresh_dir("damaged").join("image.squashfs");
    let mut bytes = fs::read(lab.system_file("busybox")).expect("root reads all");
    bytes[48..96].fill(0xee);
    fs::write(&damaged, bytes).expect("a fresh directory");
    lab.give(&damaged);
    let _ =
        lab.srun(&["-w", &node, &format!("--container-image={}", damaged.display()), "true"]).run().failure();
    let record = journal.one("refusal");
    has(&record, &[("PHASE", "Mount"), ("REFERENCE", &damaged.to_string_lossy())]);
    assert!(record["GRUS_ERRNO"].parse::<u32>().is_ok_and(|errno| errno > 0), "{record:#?}");
}

/// By options, by the environment, and in a request that is malformed where the value is.
fn no_value_of_the_environment_is_recorded(lab: &Lab) {
    const SECRET: &str = "hunter2hunter2";
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let journal = Journal::listen();
    let option = format!("--container-env=TOKEN={SECRET}");
    let in_container = ["sh", "-c", "echo $TOKEN"];
    let run = lab.srun(&[&[image.as_str(), &option][..], &in_container].concat()).run().success();
    let _ = run.stdout_is(SECRET);
    let mut records = journal.until("launch");
    let refused = [&image, &option, "--mount=/no/such/source:/mnt", "true"];
    let _ = lab.srun(&refused).env("OTHER", SECRET).run().failure();
    records.extend(journal.until("refusal"));
    let malformed = [
        format!(r#"{{"env":"{SECRET}"}}"#),
        format!(r#"{{"env":{{"TOKEN":["{SECRET}"]}}}}"#),
        format!(r#"{{"env":{{"TOKEN":"{SECRET}"}},"mounts":"{SECRET}"}}"#),
        format!(r#"{{"{SECRET}":1}}"#),
    ];
    for request in malformed {
        let run = lab.srun(&["true"]).env("SLURM_SPANK_GRUS_REQUEST", &request).run().failure();
        let _ = run.stderr_has("does not hold container options");
        let export = format!("--export=ALL,SLURM_GRUS_REQUEST={}", request.replace(',', " "));
        let _ = lab.srun(&[&export, "true"]).run().failure();
        records.extend(journal.until("refusal"));
    }
    for record in &records {
        assert!(!record.values().any(|value| value.contains(SECRET)), "{record:#?}");
    }
}

/// A path may hold anything but a NUL; a record has a line for each mount, and a terminal that shows it obeys escapes.
fn no_path_adds_a_line_to_a_record(lab: &Lab) {
    let dir = lab.fresh_dir("lines");
    let forged = "x\nbind      /etc/shadow on /etc/shadow (rw)\x1b[2J";
    let image = dir.join("image\nlaunch.squashfs");
    fs::copy(lab.system_file("busybox"), &image).expect("a fresh directory");
    lab.give(&image);
    let options = [
        format!("--container-image={}", image.display()),
        format!("--mount={}:/mnt/{forged}", dir.display()),
    ];
    let journal = Journal::listen();
    let _ = lab.srun(&[&options[0], &options[1], "true"]).run().success();
    let mut records = journal.until("launch");
    let missing = format!("--mount=/no/such/{forged}:/mnt");
    let _ = lab.srun(&[&options[0], &missing, "true"]).run().failure();
    records.extend(journal.until("refusal"));
    for record in &records {
        for (name, value) in record {
            assert!(!value.lines().any(|line| line.starts_with("bind      /etc/shadow")), "{name}: {value}");
            assert!(!value.contains(|c: char| c.is_control() && c != '\n'), "{name}: {value:?}");
            assert!(!value.contains("image\nlaunch"), "{name}: {value:?}");
        }
    }
    // Nor what shows the same to people.
    let run = lab.grus(&["plan", &options[0]["--container-image=".len()..], &options[1]]).run().success();
    let _ = run.stdout_lacks("\nbind      /etc/shadow").stdout_lacks("\x1b");
}

fn a_lost_server_is_recorded(lab: &Lab) {
    let journal = Journal::listen();
    crate::plugin::a_lost_image_server_is_explained(lab);
    let record = journal.one("server-lost");
    has(&record, &[("USER", &lab.account().name), ("STEP", "0")]);
    assert!(record["GRUS_REFUSAL"].contains("squashfuse_ll"), "{record:#?}");
}

fn a_node_without_a_journal_launches_all_the_same(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    if Path::new(SOCKET).exists() {
        return println!("skipped: this machine has a journal");
    }
    let run = lab.srun(&[&image, "sh", "-c", "echo ran"]).run().success();
    let _ = run.stdout_is("ran").stderr_lacks("grus");
}
