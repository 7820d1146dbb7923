//! The fuzz targets with what they need of the tests: the tar writer and the strict reader.

#[path = "../../tests/fixture/mod.rs"]
pub mod fixture;
pub mod targets;
