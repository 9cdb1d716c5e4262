"""How long whole commands take, beside other builders on the same machine and in the same minutes."""
