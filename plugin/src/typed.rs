//! From options as Slurm hands them over to one request.
//!
//! sbatch hands over the `#SBATCH` lines first and its command line after them, with nothing to tell them apart,
//! so the rule is that of Slurm's own options: the later value replaces the earlier one. Mounts and volatile
//! directories add up.
//!
//! Variables of the environment come before both: an option of the command line replaces its variable, lists too.

use grus_core::options::Spec;
use grus_core::path::AbsPath;
use grus_core::request::Request;
use grus_core::Refusal;

/// The request these options make. `cwd` is the submitting directory.
pub fn request<'a>(
    typed: impl IntoIterator<Item = (&'a Spec, &'a str)>,
    cwd: &AbsPath,
) -> Result<Request, Refusal> {
    let mut request = Request::default();
    for (spec, value) in typed {
        if spec.repeatable {
            request.set(spec.opt, value, cwd)?;
        } else {
            let mut one = Request::default();
            one.set(spec.opt, value, cwd)?;
            request = one.over(request);
        }
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use grus_core::options::by_name;
    use grus_core::request::Image;

    fn typed(words: &[&str]) -> Result<Request, Refusal> {
        let split = |word: &&'static str| word.split_once('=').unwrap_or((word, ""));
        let words: Vec<&'static str> = words.iter().map(|w| String::leak((*w).to_owned()) as &str).collect();
        let options = words.iter().map(split).map(|(name, value)| (by_name(name).expect("known"), value));
        request(options, &AbsPath::parse("/work").expect("static"))
    }

    #[test]
    fn the_command_line_replaces_what_the_script_says() {
        let request = typed(&["container-image=a", "container-mount-home", "container-image=none"]);
        assert_eq!(request.expect("good").image, Some(Image::None));
        let request = typed(&["container-mount-home", "no-container-mount-home"]).expect("good");
        assert_eq!(request.mount_home, Some(false));
    }

    #[test]
    fn lists_add_up_and_survive_single_values() {
        let request =
            typed(&["mount=/a", "container-image=a", "mount=/b", "container-batch", "writable-volatile=/c"])
                .expect("good");
        assert_eq!((request.mounts.len(), request.volatile.len(), request.batch), (2, 1, Some(true)));
        assert!(request.wants_container());
    }

    #[test]
    fn variables_give_way_to_the_command_line() {
        let cwd = AbsPath::parse("/work").expect("static");
        let read = |name: &str| match name {
            "GRUS_CONTAINER_IMAGE" => Some("a".to_owned()),
            "PYXIS_CONTAINER_MOUNTS" => Some("/v:/w".to_owned()),
            "GRUS_CONTAINER_MOUNT_HOME" => Some("1".to_owned()),
            _ => None,
        };
        let variables = Request::from_variables(read, &cwd).expect("good");
        assert!(variables.wants_container());
        let line = typed(&["mount=/a", "no-container-mount-home"]).expect("good");
        let both = line.over(variables.clone());
        assert_eq!((both.mounts.len(), both.mounts[0].destination.as_str()), (1, "/a"));
        assert_eq!((both.image.is_some(), both.mount_home), (true, Some(false)));
        assert!(!typed(&["container-image=none"]).expect("good").over(variables).wants_container());
        let wrong = |name: &str| (name == "PYXIS_CONTAINER_UNSHARE").then(|| "pid".to_owned());
        let refusal = Request::from_variables(wrong, &cwd).expect_err("not known");
        assert_eq!(refusal.what, "PYXIS_CONTAINER_UNSHARE: --container-unshare=pid is not known");
    }

    #[test]
    fn the_first_wrong_value_is_refused() {
        let refusal = typed(&["mount=/a:/b:zz", "container-image=A B"]).expect_err("bad");
        assert_eq!(refusal.what, "mount '/a:/b:zz': 'zz' is no flag of a mount");
    }
}
