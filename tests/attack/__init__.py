"""Attacks on lift_jax: odd input, damage, kills and second writers, against functions and commands.

    python -m tests.attack --seconds=60 --seed=0
    python -m tests.attack --seconds=60 --only weights images
    python -m tests.attack --seconds=1800 --only kills chaos

Each try ends right, in one line for the user, or is a fault: another exception, a hang, code that
was executed, or a result that changed in silence. The table counts them for each kind, and the
smallest input of each fault is printed below it. The exit status is 1 if there is a fault.
"""
