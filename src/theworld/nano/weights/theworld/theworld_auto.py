from theworld import TheWorld, TheWorldConfig, TheWorldProcessor  # pip install theworld
