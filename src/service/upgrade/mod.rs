//! Rolling upgrades that can stop, turn back, and be rolled back.
