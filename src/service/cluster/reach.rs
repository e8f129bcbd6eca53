//! How far a look at a cluster goes. Pure.

/// See above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Everything that the spec asks for is carried out.
    All,
    /// It is found out what falls due, and that is left out and told. Else it would begin the moment the pause ends.
    Plans,
    /// There is no spec to go by.
    Nothing,
}

/// `begun`: an upgrade is between two safe points, and goes on to the next one whatever the spec says.
pub(super) fn reach(paused: bool, begun: bool, valid: bool) -> Reach {
    match (paused && !begun, valid) {
        (false, _) => Reach::All,
        (true, true) => Reach::Plans,
        (true, false) => Reach::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_leaves_out_what_falls_due_and_an_upgrade_goes_on_to_its_next_safe_point() {
        for (paused, begun, valid, expected) in [
            (false, false, true, Reach::All),
            (true, false, true, Reach::Plans),
            (true, true, true, Reach::All),
            (true, true, false, Reach::All),
            (true, false, false, Reach::Nothing),
        ] {
            assert_eq!(reach(paused, begun, valid), expected, "{paused} {begun} {valid}");
        }
    }
}
