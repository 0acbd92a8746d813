//! What a profile says of a series, in words with a code.

/// From this probability on a test rejects nothing.
pub const SIGNIFICANCE: f64 = 0.05;

/// The answer to whether a series is of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// Nothing can be said.
    #[default]
    Unknown = 0,
    /// It is not.
    No = 1,
    /// It is.
    Yes = 2,
}

impl Verdict {
    /// The verdict with this code, if there is one.
    pub fn from_code(code: u8) -> Option<Verdict> {
        [Verdict::Unknown, Verdict::No, Verdict::Yes].get(usize::from(code)).copied()
    }

    /// Of a test that says so.
    pub fn of(yes: bool) -> Verdict {
        if yes { Verdict::Yes } else { Verdict::No }
    }
}

/// A verdict of a profile that may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ProfileChange {
    /// Whether it is stationary.
    Stationary = 1,
    /// Whether it is seasonal.
    Seasonal = 2,
    /// Whether it is autocorrelated.
    Autocorrelated = 3,
}

impl ProfileChange {
    /// Each of them, in the order in which a profile holds them.
    pub const ALL: [ProfileChange; 3] =
        [ProfileChange::Stationary, ProfileChange::Seasonal, ProfileChange::Autocorrelated];

    /// The one with this code, if there is one.
    pub fn from_code(code: u8) -> Option<ProfileChange> {
        ProfileChange::ALL.into_iter().find(|change| *change as u8 == code)
    }

    /// The word used in rows and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            ProfileChange::Stationary => "stationary",
            ProfileChange::Seasonal => "seasonal",
            ProfileChange::Autocorrelated => "autocorrelated",
        }
    }
}

/// Whether a profile says something, and if not, why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum ProfileStatus {
    /// It does.
    #[default]
    Ok = 0,
    /// There are too few steps.
    TooShort = 1,
    /// Too many of its steps have no sample.
    Gaps = 2,
    /// All values are equal: there is nothing to correlate.
    Constant = 3,
}

impl ProfileStatus {
    const ALL: [ProfileStatus; 4] =
        [ProfileStatus::Ok, ProfileStatus::TooShort, ProfileStatus::Gaps, ProfileStatus::Constant];

    /// The status with this code, if there is one.
    pub fn from_code(code: u8) -> Option<ProfileStatus> {
        ProfileStatus::ALL.get(usize::from(code)).copied()
    }

    /// The word used in rows and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            ProfileStatus::Ok => "ok",
            ProfileStatus::TooShort => "too_short",
            ProfileStatus::Gaps => "gaps",
            ProfileStatus::Constant => "constant",
        }
    }
}

/// What became of the ADF test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum AdfStatus {
    /// It has a result.
    #[default]
    Ok = 0,
    /// All values are equal.
    Constant = 1,
    /// There are too few values.
    TooShort = 2,
    /// A value is not finite.
    NonFinite = 3,
    /// The regression leaves nothing but rounding.
    PerfectFit = 4,
    /// The level is a combination of the other columns.
    DegenerateLevel = 5,
}

impl AdfStatus {
    const ALL: [AdfStatus; 6] = [
        AdfStatus::Ok,
        AdfStatus::Constant,
        AdfStatus::TooShort,
        AdfStatus::NonFinite,
        AdfStatus::PerfectFit,
        AdfStatus::DegenerateLevel,
    ];

    /// The status with this code, if there is one.
    pub fn from_code(code: u8) -> Option<AdfStatus> {
        AdfStatus::ALL.get(usize::from(code)).copied()
    }

    /// The word used in rows and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            AdfStatus::Ok => "ok",
            AdfStatus::Constant => "constant",
            AdfStatus::TooShort => "too_short",
            AdfStatus::NonFinite => "non_finite",
            AdfStatus::PerfectFit => "perfect_fit",
            AdfStatus::DegenerateLevel => "degenerate_level",
        }
    }
}
