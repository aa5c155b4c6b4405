//! HTTP: routes, types, faults. No SQL.
