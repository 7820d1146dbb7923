//! x
/// x
pub fn make(_: &std::path::Path) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
