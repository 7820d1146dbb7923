//! Owns what is said of a SquashFS file that the validator refuses ([`grus_squash::validate`]): one sentence, and the way
//! out.

use grus_core::refusal::{printable, Refusal};
use grus_squash::{validate_to, Broken, Bytes, Depth, Invalid, Limits, Report, Rule};

use crate::failure::{reason, Failure};

/// Checks an image that others may have written; `name` is for messages.
pub fn checked<B: Bytes + ?Sized>(image: &B, name: &str, depth: Depth) -> Result<Report, Failure> {
    found(image, name, depth)?.map_err(|broken| refusal(&broken, name).into())
}

/// The same, with what is broken as a value.
pub fn found<B: Bytes + ?Sized>(
    image: &B,
    name: &str,
    depth: Depth,
) -> Result<Result<Report, Box<Broken>>, Failure> {
    match validate_to(image, &Limits::default(), depth) {
        Ok(report) => Ok(Ok(report)),
        Err(Invalid::Broken(broken)) => Ok(Err(broken)),
        Err(Invalid::Read(error)) => {
            let what = format!("cannot read {}: {}", printable(name), reason(&error));
            Err(Failure::System { what, hint: None })
        }
    }
}

/// What is broken, as a refusal of the image.
pub fn refusal(broken: &Broken, name: &str) -> Refusal {
    let name = printable(name);
    let hint = match broken.rule {
        Rule::Unsupported | Rule::Compressor => {
            "make it again with a compression that can be checked: mksquashfs -comp zstd, lz4, gzip or xz"
        }
        Rule::Sector => "make it again without -nopad; a loop device cuts its end off",
        Rule::Magic => "only SquashFS files can be checked; 'grus import' makes one of an archive",
        _ => "pull, import or copy it again; if it was made with mksquashfs, please report this",
    };
    Refusal::image(format!("{name} is no valid SquashFS image: {}", printable(&broken.to_string())))
        .hint(hint)
}
