"""The published suite of attacks: submissions that want points, secrets or harm, and get none.

case        what an attack.toml says
overlay     lays an attack over a starter, or over a reference solution
material    what can't lie in a repository: links, pipes, archives, thousands of files
ground      where they are run: canaries, a neighbour, a bell that nobody may ring
suite       runs them, and says what did not hold
traces      what is left when all is over
matrix      the table of the documents
"""
