//! Owns the reading of a POSIX access control list as its attribute has it (linux/posix_acl_xattr.h).

const VERSION: u32 = 2;
const GROUP: u16 = 0x04;
const MASK: u16 = 0x10;

/// What the list gives the file's group: its own entry, within the mask. None if it is no list.
pub(super) fn group(list: &[u8]) -> Option<u32> {
    let (version, entries) = list.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION {
        return None;
    }
    let find = |wanted: u16| {
        let of = |entry: &[u8], at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
        let entry = entries.chunks_exact(8).find(|entry| of(entry, 0) == wanted)?;
        Some(u32::from(of(entry, 2)) & 7)
    };
    Some(find(GROUP)? & find(MASK).unwrap_or(7))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut bytes = 2u32.to_le_bytes().to_vec();
        for (tag, permissions) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(u32::MAX.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn the_group_has_its_own_entry_within_the_mask() {
        assert_eq!(group(&list(&[(1, 6), (2, 7), (4, 5), (0x10, 7), (0x20, 0)])), Some(5));
        assert_eq!(group(&list(&[(1, 6), (4, 7), (0x10, 4), (0x20, 0)])), Some(4));
        assert_eq!(group(&list(&[(1, 6), (4, 4), (0x20, 4)])), Some(4));
        for broken in [&b""[..], b"\x02\0\0", b"\x03\0\0\0", &list(&[(1, 7)])] {
            assert_eq!(group(broken), None);
        }
    }
}
