//! Custom resources: types, their schema and admission rules, and nothing else.
