"""How tests check annotations: as PEP 484 has it, an int is accepted where a float is wanted."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
