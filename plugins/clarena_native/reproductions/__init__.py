"""Published tables to be run again, one TOML file each; `clarena reproduce` reads them."""
