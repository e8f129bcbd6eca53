//! One change carried through several clusters.
