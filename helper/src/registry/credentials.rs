//! Owns the accounts.
use super::error::RegistryError;
use super::secret::Secret;
use super::settings::Paths;

/// An account at a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// User name and password (or access token in its place).
    Password {
        /// User name.
        username: String,
        /// Password.
        password: Secret,
    },
    /// An identity (refresh) token, exchanged at the token server.
    Identity(Secret),
    /// A token for the registry itself.
    Bearer(Secret),
}

/// The stored account.
pub fn find(_: &Paths, _: &str, _: &str) -> Result<Option<Account>, RegistryError> {
    Ok(None)
}
