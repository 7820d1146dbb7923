//! From options as Slurm hands them over to one request.
//!
//! sbatch hands over the `#SBATCH` lines first and its command line after them, with nothing to tell them apart,
//! so the rule is that of Slurm's own options: the later value replaces the earlier one. Mounts and volatile
//! directories add up.

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
    fn the_first_wrong_value_is_refused() {
        let refusal = typed(&["mount=/a:/b:zz", "container-image=A B"]).expect_err("bad");
        assert_eq!(refusal.what, "mount '/a:/b:zz': 'zz' is no flag of a mount");
    }
}
