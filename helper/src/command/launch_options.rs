//! The options of srun for `grus plan`, made from the one table ([`grus_core::options::TABLE`]).

use clap::{Arg, ArgAction, ArgMatches, Command, Error, FromArgMatches};
use grus_core::options::{spec, Opt, TABLE};
use grus_core::path::AbsPath;
use grus_core::refusal::Refusal;
use grus_core::request::Request;

/// The options as typed: name and value, values empty for flags.
#[derive(Clone, Debug, Default)]
pub struct LaunchOptions {
    said: Vec<(Opt, String)>,
}

impl LaunchOptions {
    /// The request that srun would make of these options and `image`, without variables, in the directory `cwd`.
    pub fn request(&self, image: Option<&str>, cwd: &AbsPath) -> Result<Request, Refusal> {
        let mut request = Request::default();
        if let Some(image) = image {
            request.set(Opt::Image, image, cwd)?;
        }
        for (opt, value) in &self.said {
            request.set(*opt, value, cwd)?;
        }
        Ok(request)
    }
}

impl FromArgMatches for LaunchOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut said = vec![];
        for row in TABLE {
            if row.value.is_none() {
                said.extend(matches.get_flag(row.name).then(|| (row.opt, String::new())));
            } else {
                let values = matches.get_many::<String>(row.name).into_iter().flatten();
                said.extend(values.map(|value| (row.opt, value.clone())));
            }
        }
        Ok(Self { said })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for LaunchOptions {
    fn augment_args(command: Command) -> Command {
        TABLE.iter().fold(command, |command, row| {
            let arg = Arg::new(row.name).long(row.name).help(row.usage).help_heading("Options of srun");
            command.arg(match row.value {
                // srun takes the last of a repeated option; Request refuses values that differ, so all are kept.
                Some(value) => arg.value_name(value).action(ArgAction::Append),
                None => arg.action(ArgAction::SetTrue),
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The long name of the option that names the image.
pub fn image_option() -> &'static str {
    spec(Opt::Image).name
}
