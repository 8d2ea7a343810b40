"""Ways to tell a chat something: ``channel`` is what each of them is, ``webhook`` is one."""
