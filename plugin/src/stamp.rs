//! Which Slurm this process is, from its API number: one plugin file serves every release (ADR 2).
//!
//! Since 21.08 Slurm refuses a plugin whose `plugin_version` differs from its own in major or minor. The
//! number is not fixed when the plugin is built but looked up when it is loaded. Refused are releases before
//! 20.11, with a version of 0.

/// `slurm_api_version() >> 16` of each release whose headers were read, and its major and minor number.
const RELEASES: &[(u32, u32, u32)] = &[
    (36, 20, 11),
    (37, 21, 8),
    (38, 22, 5),
    (39, 23, 2),
    (40, 23, 11),
    (41, 24, 5),
    (42, 24, 11),
    (43, 25, 5),
    (44, 25, 11),
    (45, 26, 5),
];

/// `plugin_version` for a Slurm with this `slurm_api_version()`; 0 if it is too old.
///
/// Beyond the table the rule of 23.11 to 26.05 goes on: one API number per half-yearly release, in May and
/// November. A plugin argument cannot say otherwise: plugstack.conf is not readable yet when this is asked.
pub fn plugin_version(api_version: i64) -> u32 {
    let Ok(api) = u32::try_from(api_version >> 16) else { return 0 };
    let (newest, year, _) = RELEASES[RELEASES.len() - 1];
    let (major, minor) = match RELEASES.iter().find(|(number, ..)| *number == api) {
        Some((_, major, minor)) => (*major, *minor),
        None if api < newest => return 0,
        None => {
            let halves = (api - newest).min(400);
            (year + halves / 2, if halves.is_multiple_of(2) { 5 } else { 11 })
        }
    };
    major << 16 | minor << 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slurm_constants::SLURM_VERSION_NUMBER;

    #[test]
    fn every_known_release_is_stamped_as_its_header_says() {
        // SLURM_VERSION_NUMBER of the releases, micro 0: slurm/slurm_version.h.
        let expected = [
            0x140b00, 0x150800, 0x160500, 0x170200, 0x170b00, 0x180500, 0x180b00, 0x190500, 0x190b00,
            0x1a0500,
        ];
        for (api, version) in (36..).zip(expected) {
            assert_eq!(plugin_version(api << 16 | 0x0105), version, "API {api}");
        }
    }

    #[test]
    fn later_releases_follow_each_half_year() {
        assert_eq!(plugin_version(46 << 16), 0x1a0b00);
        assert_eq!(plugin_version(47 << 16), 0x1b0500);
        assert_eq!(plugin_version(50 << 16), 0x1c0b00);
    }

    #[test]
    fn the_unknown_past_and_nonsense_are_refused() {
        for api in [0, 35 << 16, -1, i64::MIN] {
            assert_eq!(plugin_version(api), 0, "{api}");
        }
    }

    #[test]
    fn the_headers_of_this_build_are_of_a_release_that_is_known() {
        let built = SLURM_VERSION_NUMBER & 0xffff00;
        assert!((36..60).any(|api| plugin_version(api << 16) == built), "{built:#x}");
    }
}
