//! Every way to be refused, as one enum whose sentences say what was given, what was expected and what to do.
//!
//! Nothing here allocates except the message itself; no error leaves the object that refused half changed.

use std::fmt;

/// A refused call. The message is meant for the person who made it.
///
/// ```
/// use topk_ortho_core::{Error, Pair};
/// let error = Pair::try_new(7, 3).unwrap_err();
/// assert_eq!(error, Error::PairOrder { i: 7, j: 3 });
/// assert!(error.to_string().contains("i = 7, j = 3"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A feature index is negative or needs more than 32 bits.
    IndexRange {
        /// First index as given.
        i: i64,
        /// Second index as given.
        j: i64,
    },
    /// `i >= j`.
    PairOrder {
        /// First index as given.
        i: i64,
        /// Second index as given.
        j: i64,
    },
    /// Columns that describe the same pairs differ in length.
    Lengths {
        /// Length of the column `i` (or of the pairs).
        i: usize,
        /// Length of the column `j`.
        j: usize,
        /// Length of the column `score`, where there is one.
        score: Option<usize>,
    },
    /// A selection of no pairs was asked for.
    ZeroK,
    /// A score is NaN or infinite.
    ScoreNotFinite {
        /// First feature of the pair.
        i: u32,
        /// Second feature of the pair.
        j: u32,
        /// The score as given.
        score: f32,
    },
    /// A score is below zero.
    ScoreNegative {
        /// First feature of the pair.
        i: u32,
        /// Second feature of the pair.
        j: u32,
        /// The score as given.
        score: f32,
    },
    /// A feature's value is negative, NaN or infinite.
    FeatureValue {
        /// Index of the feature.
        feature: usize,
        /// The value as given.
        value: f32,
    },
    /// More features than 32-bit indices can name.
    TooManyFeatures {
        /// How many were given.
        given: usize,
    },
    /// A history that may hold nothing, or more than 32-bit places can name.
    Capacity {
        /// The capacity as given.
        given: usize,
        /// The largest there is.
        largest: usize,
    },
    /// A selection of more pairs than can be made or observed at once.
    SelectionSize {
        /// Number of pairs given.
        given: usize,
        /// The largest selection there is.
        largest: usize,
    },
    /// More memory than the machine gives.
    Memory {
        /// Bytes that the answer may take while it is made.
        needed: u64,
    },
    /// A decay outside the open interval (0, 1).
    Decay {
        /// The decay as given.
        given: f64,
    },
    /// A step that does not come after the one before.
    StepOrder {
        /// The step as given.
        given: u64,
        /// The last step observed.
        last: u64,
    },
    /// A step that does not fit into a signed 64-bit integer.
    StepRange {
        /// The step as given.
        given: u64,
    },
    /// A pair occurs twice in one selection.
    DuplicatePair {
        /// First feature of the pair.
        i: u32,
        /// Second feature of the pair.
        j: u32,
    },
    /// The columns of a batch of codes do not fit together.
    CodesShape {
        /// Length of `crow`.
        crow: usize,
        /// Its last entry; 0 if there is none.
        last: i64,
        /// Length of `col`.
        col: usize,
        /// Length of `value`, where there are values.
        value: Option<usize>,
    },
    /// A row of codes that ends before it starts, or outside the entries.
    CodesRow {
        /// Index of the row.
        row: usize,
        /// Where it starts.
        start: i64,
        /// Where it ends.
        end: i64,
    },
    /// A feature that does not come after the one before it in its row, or that does not exist.
    CodesFeature {
        /// Index of the row.
        row: usize,
        /// The feature as given.
        feature: i64,
        /// The smallest that could come there.
        least: u64,
        /// Number of features.
        d_sae: usize,
    },
    /// A run of features that is none.
    FeatureRange {
        /// First feature.
        first: usize,
        /// The feature after the last.
        last: usize,
        /// Number of features.
        d_sae: usize,
    },
    /// Numbers that are no whole number of rows.
    RowsShape {
        /// How many were given.
        given: usize,
        /// Numbers in a row.
        width: usize,
    },
    /// A matrix with another number of rows than there are features.
    RowCount {
        /// Number of rows.
        given: usize,
        /// Number of features.
        d_sae: usize,
    },
    /// A row with a NaN or an infinity.
    RowNotFinite {
        /// Index of the row.
        row: usize,
    },
    /// A pair of rows that do not exist.
    RowIndex {
        /// The index as given.
        index: i64,
        /// Number of rows.
        rows: usize,
    },
    /// A column that is to have one entry per pair, or per row.
    ColumnLength {
        /// Name of the column.
        column: &'static str,
        /// Its length.
        given: usize,
        /// The length it should have.
        expected: usize,
    },
    /// No thread to work on.
    ZeroThreads,
    /// The bytes do not begin with the magic of a pair history.
    Magic {
        /// The first four bytes, zero where there are fewer.
        given: [u8; 4],
    },
    /// The bytes are of a version this build cannot read.
    Version {
        /// The version in the bytes.
        given: u32,
        /// The newest version this build reads.
        newest: u32,
    },
    /// The bytes end early.
    Truncated {
        /// Bytes that the next field needs.
        needed: u64,
        /// Bytes that are left.
        left: u64,
    },
    /// The bytes were changed after they were written.
    Checksum {
        /// The checksum stored at the end.
        stored: u32,
        /// The checksum of the bytes as they are.
        computed: u32,
    },
    /// The checksum holds but a field cannot be true.
    Corrupt {
        /// What is wrong.
        what: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::IndexRange { i, j } => write!(
                f,
                "pair i = {i}, j = {j} is out of range; expected 0 <= i < j < 2^32; pass feature indices, not flattened positions"
            ),
            Self::PairOrder { i, j } => write!(
                f,
                "pair i = {i}, j = {j} is not ordered; expected i < j; swap the two, and leave out a feature paired with itself"
            ),
            Self::Lengths { i, j, score: None } => write!(
                f,
                "columns have lengths i {i}, j {j}; expected equal lengths; pass one entry per pair in each"
            ),
            Self::Lengths { i, j, score: Some(score) } => write!(
                f,
                "columns have lengths i {i}, j {j}, score {score}; expected equal lengths; pass one entry per pair in each"
            ),
            Self::ZeroK => f.write_str(
                "k is 0; expected at least 1; raise the fraction of pairs, or skip the selection on this step",
            ),
            Self::ScoreNotFinite { i, j, score } => write!(
                f,
                "score of pair i = {i}, j = {j} is {score}; expected a finite number; look for overflow or NaN in the activations of these two features"
            ),
            Self::ScoreNegative { i, j, score } => write!(
                f,
                "score of pair i = {i}, j = {j} is {score}; expected zero or more; clamp scores at 0 before selecting"
            ),
            Self::FeatureValue { feature, value } => write!(
                f,
                "value of feature {feature} is {value}; expected a finite number, zero or more; look for overflow or NaN in the activations of this feature"
            ),
            Self::TooManyFeatures { given } => write!(
                f,
                "{given} features were given; expected at most 2^32; split the dictionary"
            ),
            Self::Capacity { given, largest } => write!(
                f,
                "capacity is {given}; expected 1 to {largest}; the error bound is k / capacity, so some ten times k is a good choice"
            ),
            Self::SelectionSize { given, largest } => write!(
                f,
                "a selection of {given} pairs was given or asked for; expected at most {largest}; lower k, or the fraction of pairs"
            ),
            Self::Memory { needed } => write!(
                f,
                "the answer may take {needed} bytes while it is made; expected what this machine can give; ask for fewer pairs, features or threads"
            ),
            Self::Decay { given } => write!(
                f,
                "decay is {given}; expected more than 0 and less than 1; 0.99 remembers about a hundred observations"
            ),
            Self::StepOrder { given, last } => write!(
                f,
                "step {given} was observed after step {last}; expected a larger step; observe every selection once and in order"
            ),
            Self::StepRange { given } => write!(
                f,
                "step is {given}; expected less than 2^63; pass the number of the training step"
            ),
            Self::DuplicatePair { i, j } => write!(
                f,
                "pair i = {i}, j = {j} occurs twice in one selection; expected distinct pairs; remove duplicates before observing"
            ),
            Self::CodesShape { crow, last, col, value: None } => write!(
                f,
                "codes have crow of length {crow} ending in {last} and col of length {col}; expected crow from 0 to the number of entries (below 2^32) and one col per entry; pass the columns of one CSR matrix"
            ),
            Self::CodesShape { crow, last, col, value: Some(value) } => write!(
                f,
                "codes have crow of length {crow} ending in {last}, col of length {col} and value of length {value}; expected crow from 0 to the number of entries (below 2^32) and one col and value per entry; pass the columns of one CSR matrix"
            ),
            Self::CodesRow { row, start, end } => write!(
                f,
                "row {row} of the codes goes from entry {start} to {end}; expected rows that follow each other; pass the crow of a CSR matrix"
            ),
            Self::CodesFeature { row, feature, least, d_sae } => write!(
                f,
                "row {row} of the codes has feature {feature} where {least} is the smallest that can come; expected features that rise within a row, below {d_sae}; sort each row and merge repeated entries"
            ),
            Self::FeatureRange { first, last, d_sae } => write!(
                f,
                "features {first} to {last} were asked for; expected first <= last <= {d_sae}; take the ends that blocks gives"
            ),
            Self::RowsShape { given, width } => write!(
                f,
                "{given} numbers in rows of {width} were given; expected a whole number of rows of 1 or more; pass a matrix [rows, width]"
            ),
            Self::RowCount { given, d_sae } => write!(
                f,
                "a matrix of {given} rows was given; expected {d_sae}, one per feature; pass the decoder of these codes, and transpose it if it is [d_in, d_sae]"
            ),
            Self::RowNotFinite { row } => write!(
                f,
                "row {row} of the matrix is not finite; expected finite numbers; stop before the step that broke it"
            ),
            Self::RowIndex { index, rows } => write!(
                f,
                "a pair with row {index} was given; expected 0 <= index < {rows}; select the pairs on the codes of this decoder"
            ),
            Self::ColumnLength { column, given, expected } => write!(
                f,
                "{column} has length {given}; expected {expected}; pass one entry per pair in columns of pairs, one per row in norms"
            ),
            Self::ZeroThreads => f.write_str(
                "threads is 0; expected at least 1; pass the number of processor cores to use",
            ),
            Self::Magic { given } => write!(
                f,
                "bytes begin with {given:?}; expected \"TKOH\"; this is not a pair history, pass what to_bytes returned"
            ),
            Self::Version { given, newest } => write!(
                f,
                "bytes are of version {given}; expected version 1 to {newest}; read them with the release that wrote them, or a later one"
            ),
            Self::Truncated { needed, left } => write!(
                f,
                "bytes end early: the next field takes {needed} bytes and {left} are left; expected the whole of what to_bytes returned; restore the file from a copy"
            ),
            Self::Checksum { stored, computed } => write!(
                f,
                "checksum of the bytes is {computed:#010x}; expected {stored:#010x}; the bytes are damaged, restore the file from a copy"
            ),
            Self::Corrupt { what } => write!(
                f,
                "the bytes hold an impossible value: {what}; expected what to_bytes returned; restore the file from a copy"
            ),
        }
    }
}

impl std::error::Error for Error {}
