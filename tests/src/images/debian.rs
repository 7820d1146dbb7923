//! x
/// x
pub fn make(_: &str, _: &std::path::Path, _: &std::path::Path) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
/// x
pub fn sources() -> String {
    String::new()
}
