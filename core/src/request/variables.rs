//! A request that the environment makes.

use super::Request;
use crate::options::variables::{self, Given};
use crate::path::AbsPath;
use crate::refusal::Refusal;

impl Request {
    /// What variables ask for ([`variables::given`]), in the directory `cwd`. What is wrong is refused by the variable's
    /// name.
    pub fn from_variables(read: impl Fn(&str) -> Option<String>, cwd: &AbsPath) -> Result<Self, Refusal> {
        let mut request = Self::default();
        for Given { spec, value, variable } in variables::given(read)? {
            request
                .set(spec.opt, &value, cwd)
                .map_err(|refusal| Refusal { what: format!("{variable}: {}", refusal.what), ..refusal })?;
        }
        Ok(request)
    }
}
