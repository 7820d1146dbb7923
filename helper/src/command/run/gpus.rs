//! `--gpus` and `--device` as Docker writes them, in the words of srun's options.

use std::fs;
use std::os::unix::fs::FileTypeExt;

use grus_core::cdi::Registry;
use grus_core::refusal::{printable, Refusal};

/// What of srun's options a word of these two stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// `--container-gpu`.
    Gpus(String),
    /// `--container-device`.
    Device(String),
    /// `--mount`.
    Bind(String),
    /// What every container has.
    Nothing,
}

/// `all`, `auto`, `none`, or `device=` with numbers and names; `registry` is asked for what the node calls them.
pub(super) fn gpus(asked: &str, registry: impl FnOnce() -> Registry) -> Result<Vec<Wanted>, Refusal> {
    let refusal = |why: &str, hint: &str| {
        Refusal::user(format!("--gpus={}: {why}", printable(asked))).hint(hint.to_owned())
    };
    // Docker's own users write '"device=0,1"', with quotes inside of quotes.
    let text = asked.replace('"', "");
    let mut fields = text.split(',').peekable();
    let Some(first) = fields.next_if(|field| field.starts_with("device=")) else {
        return match (text.parse::<u32>(), text.split_once('=')) {
            (Ok(_), _) => Err(refusal(
                "nobody counts GPUs out here",
                "write --gpus all, or name them: --gpus device=0,1; in a job Slurm counts them: srun --gpus=2",
            )),
            (_, Some(_)) => Err(refusal(
                "only 'device=' is known here",
                "parts of NVIDIA's driver are chosen by -e NVIDIA_DRIVER_CAPABILITIES=compute,utility",
            )),
            _ => Ok(vec![Wanted::Gpus(text)]),
        };
    };
    let registry = registry();
    let words = first.strip_prefix("device=").into_iter().chain(fields);
    words
        .map(|word| match registry.gpu(word) {
            Ok(name) => Ok(Wanted::Device(name.to_string())),
            Err(why) => {
                Err(refusal(&why, "'grus host scan' shows its devices; --device=VENDOR/CLASS=NAME names one"))
            }
        })
        .collect()
}

/// `VENDOR/CLASS=NAME`, or a path below /dev, which may be had under another one.
pub(super) fn device(asked: &str) -> Result<Wanted, Refusal> {
    if !asked.starts_with('/') && asked.contains('=') {
        return Ok(Wanted::Device(asked.to_owned()));
    }
    let mut parts = asked.split(':');
    let (source, destination) = (parts.next().unwrap_or_default(), parts.next());
    let refuse = |why: &str| {
        Err(Refusal::user(format!("--device={}: {why}", printable(asked)))
            .hint("name a device of this host, for example /dev/fuse or nvidia.com/gpu=0"))
    };
    if !source.starts_with("/dev/") {
        return refuse("it is not below /dev");
    }
    let Ok(meta) = fs::metadata(source) else { return refuse("there is no such device") };
    match destination.filter(|to| *to != source && to.starts_with('/')) {
        Some(to) => Ok(Wanted::Bind(format!("{source}:{to}"))),
        None if meta.file_type().is_char_device() || meta.file_type().is_block_device() => {
            Ok(Wanted::Device(source.to_owned()))
        }
        // A directory of devices, such as /dev/dri: there, with all that is in it.
        None => Ok(Wanted::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use grus_core::cdi::Source;
    use grus_core::path::AbsPath;

    use super::*;

    fn registry(kinds: &[&str]) -> Registry {
        let source = |kind: &&str| Source {
            path: AbsPath::parse(&format!("/etc/cdi/{}.json", kind.replace('/', "-"))).expect("a path"),
            content: Ok(format!(
                r#"{{"cdiVersion":"0.6.0","kind":"{kind}","devices":[
                    {{"name":"0","containerEdits":{{"deviceNodes":[{{"path":"/dev/a0"}}]}}}},
                    {{"name":"GPU-ab","containerEdits":{{"deviceNodes":[{{"path":"/dev/a0"}}]}}}}]}}"#
            )
            .into_bytes()),
        };
        Registry::of(vec![kinds.iter().map(source).collect()])
    }

    #[test]
    fn gpus_are_dockers() {
        let of = |asked: &str| gpus(asked, || registry(&["nvidia.com/gpu", "example.org/nic"]));
        let device = |name: &str| Wanted::Device(format!("nvidia.com/gpu={name}"));
        for word in ["all", "none", "auto", "some"] {
            assert_eq!(of(word), Ok(vec![Wanted::Gpus(word.into())]));
        }
        assert_eq!(of("device=0"), Ok(vec![device("0")]));
        assert_eq!(of("\"device=0,GPU-ab\""), Ok(vec![device("0"), device("GPU-ab")]));
        for (asked, why) in [
            ("2", "--gpus=2: nobody counts GPUs out here"),
            ("capabilities=utility", "--gpus=capabilities=utility: only 'device=' is known here"),
            ("device=7", "--gpus=device=7: this node has nvidia.com/gpu 0, GPU-ab"),
            ("device=", "--gpus=device=: this node has nvidia.com/gpu 0, GPU-ab"),
        ] {
            assert_eq!(of(asked).expect_err(asked).what, why);
        }
        let none = gpus("device=0", Registry::default).expect_err("there is none");
        assert_eq!(none.what, "--gpus=device=0: this node describes no GPU");
        let two = gpus("device=0", || registry(&["nvidia.com/gpu", "amd.com/gpu"])).expect_err("which?");
        assert_eq!(two.what, "--gpus=device=0: this node has amd.com/gpu and nvidia.com/gpu");
    }

    #[test]
    fn devices_are_names_or_below_dev() {
        assert_eq!(device("/dev/null"), Ok(Wanted::Device("/dev/null".into())));
        assert_eq!(device("/dev/null:/dev/nothing:rw"), Ok(Wanted::Bind("/dev/null:/dev/nothing".into())));
        assert_eq!(device("/dev/shm"), Ok(Wanted::Nothing));
        assert_eq!(device("a.b/c=d"), Ok(Wanted::Device("a.b/c=d".into())));
        for bad in ["null", "/etc/passwd", "/dev/no-such"] {
            assert!(device(bad).is_err(), "{bad}");
        }
    }
}
