//! Owns what a broken image is told to be: the rule that it breaks, and where. It judges nothing.

use std::fmt;
use std::io;

/// Why an image is not valid.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// The file could not be read: this says nothing of the image.
    #[error("cannot read the image: {0}")]
    Read(#[from] io::Error),
    /// A rule is broken.
    #[error("{0}")]
    Broken(Box<Broken>),
}

/// A rule that is broken, and where. Its Display is one line; names in it are escaped.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken {
    /// The rule.
    pub rule: Rule,
    /// Where in the file, in bytes: the field, or the metadata block that holds it.
    pub at: Option<u64>,
    /// The inode's number.
    pub inode: Option<u32>,
    /// The inode's path, where one leads to it.
    pub path: Option<String>,
    /// The values that do not fit.
    pub detail: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.path, self.inode) {
            (Some(path), _) => write!(f, "{path}: ")?,
            (None, Some(inode)) => write!(f, "inode {inode}: ")?,
            (None, None) => {}
        }
        write!(f, "{}", self.rule)?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        match self.at {
            Some(at) => write!(f, ", at byte {at}"),
            None => Ok(()),
        }
    }
}

/// What the checks return.
pub(super) type Checked<T = ()> = Result<T, Invalid>;

impl Rule {
    /// Broken at this byte of the file.
    pub(super) fn at(self, at: u64, detail: impl Into<String>) -> Invalid {
        self.broken(Some(at), None, detail)
    }

    /// Broken by an inode.
    pub(super) fn of(self, inode: u32, detail: impl Into<String>) -> Invalid {
        self.broken(None, Some(inode), detail)
    }

    pub(super) fn broken(self, at: Option<u64>, inode: Option<u32>, detail: impl Into<String>) -> Invalid {
        Invalid::Broken(Box::new(Broken { rule: self, at, inode, path: None, detail: detail.into() }))
    }
}

macro_rules! rules {
    ($($(#[doc = $group:literal])? $name:ident $id:literal $text:literal)*) => {
        /// The rules, each with a name for scripts and a sentence for people that says how it is broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[allow(missing_docs)] // the sentences say it
        pub enum Rule { $($name,)* }

        impl Rule {
            /// All of them.
            pub const ALL: &[Rule] = &[$(Rule::$name,)*];

            /// Its name for scripts.
            pub fn id(self) -> &'static str {
                match self { $(Rule::$name => $id,)* }
            }
        }

        impl fmt::Display for Rule {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Rule::$name => $text,)* })
            }
        }
    };
}

rules! {
    // The superblock and the file around it.
    Short "short" "the file is too short for a superblock"
    Magic "magic" "it is no SquashFS file"
    Version "version" "it is not SquashFS 4.0"
    Compressor "compressor" "its compression is unknown"
    Unsupported "unsupported" "its compression cannot be read here"
    BlockSize "block-size" "its block size is not a power of two from 4 KiB to 1 MiB"
    BlockLog "block-log" "its block size and that size's logarithm disagree"
    Flags "flags" "unknown flags are set"
    InodeCount "inode-count" "it has no inodes"
    IdCount "id-count" "it has no owners"
    RootPlace "root-place" "its root directory is nowhere"
    Truncated "truncated" "the file is shorter than the image"
    Sector "sector" "the image ends in a part of a 512-byte sector, which no block device has"
    TrailingLength "trailing-length" "more than padding follows the image"
    TrailingBytes "trailing-bytes" "what follows the image is not zero"
    Options "options" "the options of its compression are malformed"
    // Where the tables are.
    TableOrder "table-order" "its tables are not in their order"
    IndexLength "index-length" "the index of a table does not end where the next table begins"
    IndexEntry "index-entry" "the index of a table and its blocks disagree"
    Export "export" "the flag and the place of the export table disagree"
    XattrHeader "xattr-header" "the header of the attributes is malformed"
    // Metadata blocks.
    MetadataSize "metadata-size" "a metadata block is empty or larger than 8 KiB"
    MetadataBounds "metadata-bounds" "a metadata block goes beyond its table"
    MetadataUnpack "metadata-unpack" "a metadata block cannot be unpacked"
    MetadataShort "metadata-short" "a metadata block that is not its table's last is not full"
    TableLength "table-length" "a table holds more or less than its entries"
    // Owners and fragments.
    IdValue "id-value" "an owner is the number that stands for none"
    FragmentWord "fragment-word" "the size of a fragment is malformed"
    FragmentBounds "fragment-bounds" "a fragment is outside of the data"
    // Inodes.
    InodeCut "inode-cut" "the inode table ends within an inode"
    InodeType "inode-type" "there is no such type of inode"
    InodeMode "inode-mode" "its mode has more than permissions"
    InodeOwner "inode-owner" "its owner is not in the table of owners"
    InodeNumber "inode-number" "its number is not one of this image"
    InodeTwice "inode-twice" "two inodes have this number"
    InodeTotal "inode-total" "the inode table has not as many inodes as stated"
    FileBlock "file-block" "the size of a data block is malformed"
    FileBounds "file-bounds" "its data are outside of the data area"
    FileFragment "file-fragment" "its fragment does not exist"
    FileTail "file-tail" "it has a fragment and no end to be in it"
    FileOffset "file-offset" "its end does not fit into its fragment"
    FileSparse "file-sparse" "more of it is holes than its size"
    LinkLength "link-length" "its target is empty"
    LinkNul "link-nul" "its target has a NUL in it"
    XattrIndex "xattr-index" "its attributes do not exist"
    DirectorySize "directory-size" "the size of its listing cannot be"
    // Listings.
    ListingPlace "listing-place" "a listing is not where the one before it ends"
    ListingCut "listing-cut" "the directory table ends within a listing"
    ListingRest "listing-rest" "the directory table has bytes of no directory"
    HeaderCount "header-count" "a header of a listing has more than 256 entries"
    EntryCut "entry-cut" "a listing ends within an entry"
    EntryName "entry-name" "a name is none that a file can have"
    EntryOrder "entry-order" "names are not in order"
    EntryTwice "entry-twice" "a name is there twice"
    EntryNumber "entry-number" "a name leads to an inode that does not exist"
    EntryPlace "entry-place" "a name leads to a place where its inode is not"
    EntryType "entry-type" "a name says another type than its inode"
    DirectoryParent "directory-parent" "a directory says another parent than the one it is in"
    DirectoryTwice "directory-twice" "a directory is in two places"
    DirectoryIndex "directory-index" "the index of a directory does not lead to its entries"
    // The tree.
    RootType "root-type" "its root is no directory"
    RootNamed "root-named" "a name leads to the root directory"
    Unnamed "unnamed" "no name leads to it"
    Links "links" "it has not as many names as links"
    DirectoryLinks "directory-links" "its count of links is not that of a directory"
    Cycle "cycle" "a directory is below itself"
    ExportEntry "export-entry" "the export table has it elsewhere"
    // Attributes.
    XattrPlace "xattr-place" "a set of attributes begins outside of their table"
    XattrCut "xattr-cut" "the table of attributes ends within one"
    XattrEmpty "xattr-empty" "a set of attributes is empty"
    XattrPrefix "xattr-prefix" "an attribute is of an unknown kind"
    XattrName "xattr-name" "the name of an attribute is none"
    XattrTwice "xattr-twice" "an attribute is there twice"
    XattrValue "xattr-value" "a value that is stored elsewhere is not there"
    XattrSize "xattr-size" "a set of attributes has another size than stated"
    // Data.
    DataUnpack "data-unpack" "a data block cannot be unpacked"
    DataSize "data-size" "a data block has not the size of its part of the file"
    // Ceilings.
    LimitEntries "limit-entries" "it has more inodes than is allowed"
    LimitTotal "limit-total" "its files are larger together than is allowed"
    LimitFile "limit-file" "it is larger than is allowed"
    LimitMetadata "limit-metadata" "its tables are larger than is allowed"
    LimitName "limit-name" "a name is longer than is allowed"
    LimitTarget "limit-target" "its target is longer than is allowed"
    LimitDepth "limit-depth" "directories are nested deeper than is allowed"
    LimitXattr "limit-xattr" "an attribute is larger than is allowed"
    LimitRatio "limit-ratio" "its files are larger, by its own size, than is allowed"
}
