"""The links were made before the submission was handed in."""

from attack_kit import loot, ran, read, tried, won

ran()
for name in ("stolen.py", "secret.txt", "shadow", "root/etc/shadow", "up/../canary.txt", "loop"):
    loot(read(name))
if tried(__import__, "stolen"):
    won("the linked solution was imported")
